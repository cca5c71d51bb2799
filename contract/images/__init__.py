"""Encoded images to network input: formats, decoding, orientation, resize and crop."""
