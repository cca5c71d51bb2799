"""What training, export, server and device share: the manifest, image preprocessing, the model repository, errors.

Needs only numpy and Pillow, so that a device can import it.
"""
