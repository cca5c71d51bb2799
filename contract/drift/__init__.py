"""Drift: whether the images and predictions of now are distributed as those that a model was validated on."""
