"""Write a tuned network as one ONNX file that describes itself, and prove it equal before publishing it."""
