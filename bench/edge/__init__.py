"""An arm64 system under emulation, and what models do on it."""
