"""What to do where a GPU's memory runs out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from unfreeze.contract.errors import UnfreezeError, first_line

_Result = TypeVar("_Result")


def in_halves(work: Callable[[Tensor], _Result], batch: Tensor) -> list[_Result]:
    """Do work to a batch; where the memory does not hold that, to its halves one after the other, and to theirs.

    Args:
        work: that treats each image alike, whatever the others; it may be begun and not ended.
        batch: [n, ...].

    Returns:
        The results in the batch's order, mostly one.

    Raises:
        UnfreezeError: the memory does not hold a single image.
    """
    try:
        return [work(batch)]
    except torch.OutOfMemoryError as error:
        if len(batch) <= 1:
            raise UnfreezeError(
                f"the GPU's memory does not hold the network with a single image ({first_line(error)}); nvidia-smi "
                "shows who else uses it; free it, or give a smaller --backbone, or --device cpu"
            ) from error
    # Behind the handler, because the error holds on to what was computed.
    torch.cuda.empty_cache()
    return [result for half in batch.tensor_split(2) for result in in_halves(work, half)]


@contextmanager
def training_memory(batch_size: int) -> Iterator[None]:
    """Say what to do where the memory does not hold training: its batches are not ours to make smaller.

    Args:
        batch_size: that is tried.

    Raises:
        UnfreezeError: the memory ran out.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        smaller = f"a smaller --batch-size than {batch_size}, " if batch_size > 2 else ""  # noqa: PLR2004 - the least
        raise UnfreezeError(
            f"the GPU's memory does not hold training in batches of {batch_size} images ({first_line(error)}); give "
            f"{smaller}a --cut nearer to the head, or --cache-gb 0, which keeps no activations"
        ) from error
