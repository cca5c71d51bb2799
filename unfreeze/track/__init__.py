"""Log finished runs and exported models to experiment trackers."""
