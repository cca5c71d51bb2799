"""The .proto files, and the Python code that `python -m unfreeze.protos.generate` generates from them."""
