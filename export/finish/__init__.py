"""Quantization-aware finishing: the trained part of an int8 graph learns to be exact in spite of its rounding."""
