"""Exported models: manifest, seal, engine note, and the model repository that holds them."""
