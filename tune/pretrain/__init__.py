"""The project's own pretraining: draw labelled pictures, learn to tell them apart, keep the backbone."""
