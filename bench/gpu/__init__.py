"""The GPU benchmark: tests, exports, serving and tuning, each in a separate process with a time limit."""
