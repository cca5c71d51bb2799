"""The demo: from image files to predictions over gRPC, on this machine alone and without a download."""
