"""The inspection of a data set before training: every file is opened once, and problems become findings."""
