"""Self-contained HTML pages: one file with everything in it, which opens without a network."""
