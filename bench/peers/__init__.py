"""Programs of other projects, each run in a separate environment."""
