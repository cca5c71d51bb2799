"""The rows of a result: one for each image, in the order of the listing."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unfreeze.batch.sources.entry import Item
from unfreeze.contract.answers import Answer, read_answer
from unfreeze.contract.arrays import Float32
from unfreeze.contract.model.ood import OutOfDistribution

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("key", pa.string()),
        ("label", pa.string()),
        ("score", pa.float32()),
        ("labels", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float32())),
        ("unsure", pa.bool_()),
        ("out_of_distribution", pa.bool_()),
        ("ood_score", pa.float32()),
        ("model", pa.string()),
        ("model_version", pa.int64()),
        ("model_sha256", pa.string()),
        ("error", pa.string()),
    ]
)
COMPRESSION = "zstd"


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the rows of a model have in common.

    Args:
        labels: of the model.
        abstain_below: the confidence below which an answer is unsure; None without a threshold.
        top_k: number of labels of an image.
        model: name of the model.
        version: of the model; None for a file outside of a repository.
        sha256: of the model file.
        ood: how images unlike the training images are recognized; None if they are not.
    """

    labels: tuple[str, ...]
    abstain_below: float | None
    top_k: int
    model: str
    version: int | None
    sha256: str
    ood: OutOfDistribution | None = None

    def table(self, items: Sequence[Item], rows: Float32[np.ndarray, "n a"]) -> pa.Table:
        """Make the rows of some images.

        Args:
            items: the images, without their data, and those that cannot be read or decoded, in order.
            rows: of the model's output, for the images without an error, in order.
        """
        left = iter(rows)
        answers = [
            Answer(predictions=()) if item.error else read_answer(next(left), self, self.top_k) for item in items
        ]
        found = [one.predictions for one in answers]
        columns = {
            "path": [printable(item.path) for item in items],
            "key": [None if item.key is None else printable(item.key) for item in items],
            "label": [own[0].label if own else None for own in found],
            "score": [own[0].score if own else None for own in found],
            "labels": [[one.label for one in own] if own else None for own in found],
            "scores": [[one.score for one in own] if own else None for own in found],
            "unsure": [one.unsure for one in answers],
            "out_of_distribution": [one.out_of_distribution for one in answers],
            "ood_score": [one.ood_score for one in answers],
            "model": [self.model] * len(items),
            "model_version": [self.version] * len(items),
            "model_sha256": [self.sha256] * len(items),
            "error": [printable(item.error) if item.error else None for item in items],
        }
        return pa.table(columns, schema=SCHEMA)


def printable(text: str) -> str:
    """Return text that can be encoded as UTF-8: bytes of file names that are not UTF-8 are escaped."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def encode_block(tables: Sequence[pa.Table]) -> bytes:
    """Encode the rows of a block as a Parquet file; the same rows give the same bytes."""
    file = io.BytesIO()
    rows = pa.concat_tables(tables).combine_chunks()
    pq.write_table(rows, file, compression=COMPRESSION)
    return file.getvalue()
