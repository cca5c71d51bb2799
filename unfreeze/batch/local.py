"""Blocks in threads of this process, one for each core."""

from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from threading import Event

from unfreeze.batch.blocks import Block
from unfreeze.batch.model import JobModel
from unfreeze.batch.predictor import Predictor
from unfreeze.batch.rows import encode_block
from unfreeze.contract.cores import usable_cores

_FOR_THE_DEVICE = 2  # more threads than cores, because those that wait for a GPU decode nothing


def predict_locally(model: JobModel, top_k: int, base: str, blocks: Iterable[Block]) -> Iterator[tuple[int, bytes]]:
    """Classify blocks in threads that share one loaded model.

    Args:
        model: the model.
        top_k: number of labels of an image.
        base: folder that local paths are relative to.
        blocks: read only as far as they are needed.

    Yields:
        The number of a block and its rows as a Parquet file, in the order in which blocks are finished.

    Raises:
        UnfreezeError: a file that holds many images can no longer be read, or the model failed.
    """
    threads, stopped = usable_cores() + (0 if model.uses_cpu else _FOR_THE_DEVICE), Event()

    def predict(block: Block) -> tuple[int, bytes]:
        return block.number, encode_block(predictor.predict(block, stopped.is_set))

    running: set[Future[tuple[int, bytes]]] = set()
    with (
        closing(Predictor(model, top_k, base)) as predictor,
        ThreadPoolExecutor(threads, thread_name_prefix="predict") as pool,
    ):
        try:
            for block in blocks:
                running.add(pool.submit(predict, block))
                if len(running) > threads:
                    yield from _finished(running)
            while running:
                yield from _finished(running)
        finally:
            stopped.set()
            for future in running:
                future.cancel()


def _finished(running: set[Future[tuple[int, bytes]]]) -> Iterator[tuple[int, bytes]]:
    """Wait for at least one block, and take those that are finished."""
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    running -= done
    for future in done:
        yield future.result()
