"""The GPU benchmark: tests, exports, serving and tuning, each in a process with a time limit of its own."""
