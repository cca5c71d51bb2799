"""Decode and classify the images of blocks: the same code in threads of one machine and in workers of a cluster."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from unfreeze.batch.ahead import read_ahead
from unfreeze.batch.blocks import Block
from unfreeze.batch.model import JobModel, open_job_model
from unfreeze.batch.reading import read_block
from unfreeze.batch.rows import SCHEMA, Answers
from unfreeze.batch.sources.entry import Item
from unfreeze.contract.arrays import UInt8
from unfreeze.contract.errors import ImageError, first_line
from unfreeze.contract.images.preprocess import PreprocessSpec, prepare
from unfreeze.serve.runtimes import Runtime


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodedBatch:
    """Images of one batch, in order, and between them those that cannot be decoded.

    Args:
        items: all of them, without their data.
        pixels: of those without an error, in order: uint8 [n, H, W, 3].
    """

    items: tuple[Item, ...]
    pixels: UInt8[np.ndarray, "n h w 3"]


def decode_block(block: Block, base: str, spec: PreprocessSpec, batch: int) -> Iterator[DecodedBatch]:
    """Read and decode a block, one batch at a time.

    Args:
        block: the block.
        base: folder that local paths are relative to.
        spec: how images are prepared.
        batch: images in a batch; the last one of a block may have fewer.

    Raises:
        UnfreezeError: a file that holds many images can no longer be read.
    """
    items, pixels = list[Item](), list[np.ndarray]()
    with read_ahead(lambda: read_block(block, base)) as encoded:
        for item in encoded:
            decoded = _decode(item, spec)
            if isinstance(decoded, Item):
                items.append(decoded)
                continue
            items.append(replace(item, data=b""))
            pixels.append(decoded)
            if len(pixels) == batch:
                yield _batch(items, pixels, spec)
                items, pixels = [], []
    if items:
        yield _batch(items, pixels, spec)


def _decode(item: Item, spec: PreprocessSpec) -> np.ndarray | Item:
    """Decode an image; return it with an error if that is impossible."""
    if item.error:
        return item
    try:
        return prepare(item.data, spec)
    except ImageError as error:
        return replace(item, data=b"", error=str(error))
    except Exception as error:  # noqa: BLE001 - one image must not end a job over millions
        return replace(item, data=b"", error=f"{type(error).__name__}: {first_line(error)}")


def _batch(items: list[Item], pixels: list[np.ndarray], spec: PreprocessSpec) -> DecodedBatch:
    stacked = np.stack(pixels) if pixels else np.empty((0, *spec.shape), np.uint8)
    return DecodedBatch(items=tuple(items), pixels=stacked)


class Predictor:
    """A loaded model that classifies blocks; may be called from several threads.

    Args:
        model: the model.
        top_k: number of labels of an image.
        base: folder that local paths are relative to.

    Raises:
        ModelError: the runtime is not available here, or cannot execute the model.
    """

    def __init__(self, model: JobModel, top_k: int, base: str) -> None:
        self._runtime: Runtime = open_job_model(model)
        self._batch, self._base = model.batch, base
        manifest = self._runtime.manifest
        self.spec = manifest.preprocess
        self._answers = Answers(
            labels=manifest.labels,
            abstain_below=manifest.abstain_below,
            ood=manifest.ood,
            top_k=top_k,
            model=model.name,
            version=model.version,
            sha256=model.sha256,
        )

    def classify(self, batch: DecodedBatch) -> pa.Table:
        """Classify a decoded batch."""
        width = self._runtime.manifest.answer_width
        rows = self._runtime.run(batch.pixels) if len(batch.pixels) else np.empty((0, width), np.float32)
        return self._answers.table(batch.items, rows)

    def predict(self, block: Block, is_stopped: Callable[[], bool] = lambda: False) -> list[pa.Table]:
        """Read, decode and classify a block.

        Args:
            block: the block.
            is_stopped: asked between batches whether the rest is not needed any more.

        Raises:
            UnfreezeError: a file that holds many images can no longer be read.
            ModelError: the model failed.
        """
        tables = [SCHEMA.empty_table()]
        for batch in decode_block(block, self._base, self.spec, self._batch):
            if is_stopped():
                break
            tables.append(self.classify(batch))
        return tables

    def close(self) -> None:
        """Release the model."""
        self._runtime.close()
