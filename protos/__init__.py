"""The wire: the .proto sources and the code made from them by `python -m unfreeze.protos.generate`."""
