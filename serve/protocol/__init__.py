"""The gRPC services: they translate between messages and models, and refuse what cannot be read."""
