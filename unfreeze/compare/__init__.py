"""`unfreeze compare`: accuracy against latency of several backbones on the user's images and machine."""
