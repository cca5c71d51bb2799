"""The models that a server holds: loading, verification, replacement."""
