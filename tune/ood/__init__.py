"""Images unlike the training images: scores, which of them to use, and its threshold."""
