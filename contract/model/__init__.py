"""Exported models: manifest, seal, engine facts, and the model repository that holds them."""
