"""Export a tuned network as one self-describing ONNX file, and check it against the network before publishing."""
