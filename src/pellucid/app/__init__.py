"""The REST service and the page in front of it."""
