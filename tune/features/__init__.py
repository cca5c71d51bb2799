"""Activations of the frozen blocks: extracted once, cached, pooled."""
