"""Bytes of a classified image in a Parquet file."""

import io
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def row_bytes(classes: int, rows: int = 100_000) -> float:
    """Write drawn results with the default compression, and return the bytes a row.

    Args:
        classes: number of classes.
        rows: number of rows.
    """
    rng, names = np.random.default_rng(0), random.Random(0)  # noqa: S311 - it draws names
    labels = rng.integers(0, classes, rows)
    columns = {
        "path": [f"bucket/images/{names.getrandbits(64):016x}.jpg" for _ in range(rows)],
        "label": pa.array([f"class {label}" for label in labels]).dictionary_encode(),
        "score": rng.random(rows, np.float32),
        "version": pa.array(["1"] * rows).dictionary_encode(),
    }
    target = io.BytesIO()
    pq.write_table(pa.table(columns), target)
    return target.tell() / rows
