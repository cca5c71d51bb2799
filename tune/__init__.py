"""Tune a pretrained network: train its last blocks and a new head, and never compute the frozen part twice."""
