"""What runs in the workers of a Ray cluster. Ray Data calls it with a table that has one block or batch in each row."""

import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from unfreeze.batch.blocks import Block
from unfreeze.batch.predictor import DecodedBatch, Predictor, decode_block
from unfreeze.batch.rows import encode_block
from unfreeze.batch.sources.entry import Item
from unfreeze.contract.images.preprocess import PreprocessSpec

if TYPE_CHECKING:
    from ray import ObjectRef

NUMBER, PART, IS_LAST, ROWS = "number", "part", "is_last", "rows"
OBJECT, PLACE = "object", "place"
_ITEMS, _PIXELS = "items", "pixels"


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """What workers need beside the number of a block.

    Args:
        model: the `JobModel`, in the object store.
        blocks: lists of blocks as JSON, in the object store.
        spec: how images are prepared.
        batch: images in a batch.
        top_k: number of labels of an image.
        base: folder that local paths are relative to.
    """

    model: "ObjectRef[Any]"
    blocks: "tuple[ObjectRef[Any], ...]"
    spec: PreprocessSpec
    batch: int
    top_k: int
    base: str

    def read(self, table: pa.Table) -> Iterator[Block]:
        """Read the blocks that the rows of a table name."""
        import ray

        for row in table.to_pylist():
            yield Block.from_json(ray.get(self.blocks[row[OBJECT]])[row[PLACE]])

    def predictor(self) -> Predictor:
        """Load the model."""
        import ray

        return Predictor(ray.get(self.model), self.top_k, self.base)


class PredictingWorker:
    """Reads, decodes and classifies blocks.

    Args:
        settings: of the job.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._predictor = settings.predictor()

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        """Yield the rows of each block as a Parquet file."""
        for block in self._settings.read(table):
            rows = encode_block(self._predictor.predict(block))
            yield pa.table({NUMBER: [block.number], ROWS: pa.array([rows], pa.large_binary())})


def decode_blocks(table: pa.Table, settings: WorkerSettings) -> Iterator[pa.Table]:
    """Read and decode blocks, and yield their batches."""
    for block in settings.read(table):
        part, waiting = 0, None
        for batch in decode_block(block, settings.base, settings.spec, settings.batch):
            if waiting is not None:
                yield _to_table(block.number, part, waiting, is_last=False)
                part += 1
            waiting = batch
        nothing = DecodedBatch(items=(), pixels=np.empty((0, *settings.spec.shape), np.uint8))
        yield _to_table(block.number, part, waiting or nothing, is_last=True)


class ClassifyingWorker:
    """Classifies decoded batches.

    Args:
        settings: of the job.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._shape = settings.spec.shape
        self._predictor = settings.predictor()

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        """Yield the rows of each batch."""
        for row in table.to_pylist():
            items = tuple(Item(**fields) for fields in json.loads(row[_ITEMS]))
            pixels = np.frombuffer(row[_PIXELS], np.uint8).reshape(-1, *self._shape)
            rows = to_bytes(self._predictor.classify(DecodedBatch(items=items, pixels=pixels)))
            place = {name: [row[name]] for name in (NUMBER, PART, IS_LAST)}
            yield pa.table(place | {ROWS: pa.array([rows], pa.large_binary())})


def _to_table(number: int, part: int, batch: DecodedBatch, *, is_last: bool) -> pa.Table:
    items = [{name: value for name, value in asdict(item).items() if name != "data"} for item in batch.items]
    return pa.table(
        {
            NUMBER: [number],
            PART: [part],
            IS_LAST: [is_last],
            _ITEMS: [json.dumps(items)],
            _PIXELS: pa.array([batch.pixels.tobytes()], pa.large_binary()),
        }
    )


def to_bytes(table: pa.Table) -> bytes:
    """Encode a table for another process."""
    file = io.BytesIO()
    with pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    return file.getvalue()


def from_bytes(content: bytes) -> pa.Table:
    """Decode what `to_bytes` encoded."""
    return pa.ipc.open_stream(content).read_all()
