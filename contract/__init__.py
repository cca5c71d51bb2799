"""What the stages promise each other: the manifest, the preparation of an image, the model repository.

Needs numpy and Pillow alone, so that a device can import it.
"""
