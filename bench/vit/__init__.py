"""A small vision transformer, pretrained on drawn images, and what its recipes and poolings are worth."""
