"""Drift of a set of images, without a server."""
