"""Distributed training with Ray Train: the processes that `torchrun` starts on one machine, on a cluster."""
