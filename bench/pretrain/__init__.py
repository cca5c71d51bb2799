"""The project's own pretraining: draw labeled images, learn to tell them apart, keep the backbone."""
