"""Handle a GPU that runs out of memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from unfreeze.contract.errors import UnfreezeError, first_line

_Result = TypeVar("_Result")
_SMALLEST_BATCH = 2


def halve_on_oom(work: Callable[[Tensor], _Result], batch: Tensor) -> list[_Result]:
    """Run `work` on a batch; where memory runs out, run it on both halves instead, and so on.

    Args:
        work: processes each image independently of the others. A call that fails may be repeated.
        batch: [n, ...].

    Returns:
        The results in the batch's order; one, unless memory ran out.

    Raises:
        UnfreezeError: memory runs out on a single image.
    """
    try:
        return [work(batch)]
    except torch.OutOfMemoryError as error:
        if len(batch) <= 1:
            raise UnfreezeError(
                f"the GPU has too little memory for a single image ({first_line(error)}); nvidia-smi shows which "
                "processes use it; free memory, or use a smaller --backbone or --device cpu"
            ) from error
    # Outside of the handler, because the exception references the tensors computed so far.
    torch.cuda.empty_cache()
    return [result for half in batch.tensor_split(2) for result in halve_on_oom(work, half)]


@contextmanager
def training_memory(batch_size: int) -> Iterator[None]:
    """Raise an error with advice where training runs out of memory.

    A training batch is not halved: that would change batch statistics and the result.

    Args:
        batch_size: images in a training batch.

    Raises:
        UnfreezeError: memory ran out.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        smaller = f"a --batch-size smaller than {batch_size}, " if batch_size > _SMALLEST_BATCH else ""
        raise UnfreezeError(
            f"the GPU has too little memory to train with {batch_size} images in a batch ({first_line(error)}); use "
            f"{smaller}a --cut nearer to the head, or --cache-gb 0 to keep no activations"
        ) from error
