"""Pretrained networks, cut into blocks."""
