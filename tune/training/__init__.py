"""Training of the head and some blocks on cached activations."""
