"""Serve a model repository over gRPC, or one model file in-process. Never imports torch."""
