"""Pretraining of the built-in weights: draw labeled images, train a classifier on them, keep its backbone."""
