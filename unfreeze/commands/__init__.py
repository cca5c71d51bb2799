"""The commands, one per file; none imports a stage before it runs."""
