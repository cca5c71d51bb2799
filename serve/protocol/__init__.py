"""gRPC services and interceptors: they translate between protocol messages and models, and validate requests."""
