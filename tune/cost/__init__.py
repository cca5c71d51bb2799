"""Cost estimates made before training."""
