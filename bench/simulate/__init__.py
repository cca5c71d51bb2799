"""A queueing simulation of the server: one process, several front ends, many replicas, autoscaling."""
