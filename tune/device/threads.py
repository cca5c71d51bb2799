"""Limit the threads of torch and of BLAS to the cores that this process may use."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import ThreadpoolController

from unfreeze.contract.cores import usable_cores


@contextmanager
def limited_threads() -> Iterator[None]:
    """Use at most one thread per usable core, and restore the number of threads afterwards.

    Torch and OpenBLAS start a thread per core of the machine. In a container that is limited to 2 of 64 cores, 64
    threads compete for 2 cores. A lower number, for example from OMP_NUM_THREADS, is kept.
    """
    cores, threads = usable_cores(), torch.get_num_threads()
    controller = ThreadpoolController()
    excessive = {pool["prefix"]: cores for pool in controller.info() if pool["num_threads"] > cores}
    torch.set_num_threads(min(threads, cores))
    try:
        with controller.limit(limits=excessive):
            yield
    finally:
        torch.set_num_threads(threads)
