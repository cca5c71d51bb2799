"""Data sets: reading, inspecting and splitting them, and loading their images."""
