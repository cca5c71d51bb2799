"""Training of the last blocks and the head."""
