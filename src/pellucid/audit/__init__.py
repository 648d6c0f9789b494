"""Does a network rely on something it should not? Measured by changing it, not by looking for hot spots."""
