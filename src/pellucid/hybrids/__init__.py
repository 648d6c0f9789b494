"""What else can be made of evidence: a table of descriptors, a tree that decides by it, training cells that look alike."""
