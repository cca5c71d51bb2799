"""The processes that share one training: one alone, or those that torchrun starts."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn


@dataclass(frozen=True, kw_only=True)
class Workers:
    """How many processes share the work, and which of them this is.

    Image number n belongs to process n modulo their count: that one computes and keeps its activations.

    Args:
        rank: of this process, from 0.
        count: of all processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that chooses, evaluates and writes."""
        return self.rank == 0

    def own(self, rows: Tensor) -> Tensor:
        """Tell which of some images belong to this process: bool, of the shape of `rows`."""
        return rows % self.count == self.rank

    def meet(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            distributed.barrier()

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up every process's gradients."""
        if self.count > 1:
            for parameter in parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                distributed.all_reduce(parameter.grad)

    def sum(self, values: Tensor) -> Tensor:
        """Add up what every process has."""
        if self.count > 1:
            distributed.all_reduce(values)
        return values

    def average_statistics(self, module: nn.Module) -> None:
        """Give all processes the mean of their batch statistics."""
        if self.count > 1:
            for buffer in module.buffers():
                if buffer.is_floating_point():
                    distributed.all_reduce(buffer)
                    buffer.div_(self.count)

    def collect(self, own: Tensor, total: int) -> Tensor:
        """Put together what each process has of its own images, [n, ...], in the images' order: [total, ...]."""
        if self.count == 1:
            return own
        whole = torch.zeros((total, *own.shape[1:]), dtype=own.dtype)
        whole[self.rank :: self.count] = own
        return self.sum(whole)


ALONE = Workers()


@contextmanager
def joined_workers(device: torch.device) -> Iterator[Workers]:
    """Meet the other processes that torchrun has started; without torchrun, be alone.

    Args:
        device: what this process computes on.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # Features are collected in main memory, gradients where they are.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield Workers(rank=distributed.get_rank(), count=distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
