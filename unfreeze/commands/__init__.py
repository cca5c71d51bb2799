"""The commands, one per module. A module imports what its command needs when the command runs."""
