"""The files of a run: checkpoint, metrics, epoch journal, and the state from which it is resumed."""
