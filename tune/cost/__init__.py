"""Cost estimates before training."""
