"""Pretrained backbones: where they come from, how they split into blocks, and how their weights are loaded."""
