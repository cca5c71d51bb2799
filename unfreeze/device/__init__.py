"""Programs for a device, `classify` and `pull`, which need numpy, Pillow and ONNX Runtime alone, and `bundle`."""
