"""The processes of one training: a single one, or those that torchrun or Ray Train starts."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The number of processes that train together, and the rank of this one.

    Image n belongs to the process of rank n modulo `count`, which computes and caches its activations. With one
    process, all methods that communicate do nothing.

    Args:
        rank: of this process, from 0.
        count: number of processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_leader(self) -> bool:
        """Whether this process selects, evaluates and writes."""
        return self.rank == 0

    def owns(self, rows: Tensor) -> Tensor:
        """Return which images, by their numbers, belong to this process: bool, in the shape of `rows`."""
        return rows % self.count == self.rank

    def barrier(self) -> None:
        """Wait until all processes have called this method."""
        if self.count > 1:
            distributed.barrier()

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its sum over all processes."""
        if self.count > 1:
            for parameter in parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                distributed.all_reduce(parameter.grad)

    def sum(self, values: Tensor) -> Tensor:
        """Sum `values` over all processes, in place."""
        if self.count > 1:
            distributed.all_reduce(values)
        return values

    def average_statistics(self, module: nn.Module) -> None:
        """Replace floating-point buffers, such as batch statistics, by their mean over all processes."""
        if self.count > 1:
            for buffer in module.buffers():
                if buffer.is_floating_point():
                    distributed.all_reduce(buffer)
                    buffer.div_(self.count)

    def collect(self, own: Tensor, total: int) -> Tensor:
        """Merge each process's values for its own images, [n, ...], into the order of all images: [total, ...]."""
        if self.count == 1:
            return own
        merged = torch.zeros((total, *own.shape[1:]), dtype=own.dtype)
        merged[self.rank :: self.count] = own
        return self.sum(merged)


SINGLE_WORKER = Workers()


@contextmanager
def join_workers(device: torch.device) -> Iterator[Workers]:
    """Join the processes that torchrun or Ray Train has started; without them, yield a single worker.

    Args:
        device: the device of this process.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield SINGLE_WORKER
        return
    if distributed.is_initialized():  # by Ray Train, which also ends it
        workers = Workers(rank=distributed.get_rank(), count=distributed.get_world_size())
        workers.barrier()  # as init_process_group: nothing is written before all have checked the run's folder
        yield workers
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # Features are collected in main memory, gradients on the device.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield Workers(rank=distributed.get_rank(), count=distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
