"""The choice of recipe and depth by cross-validation."""
