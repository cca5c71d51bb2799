"""The files of a run: checkpoint, metrics, journal, and the state that resuming needs."""
