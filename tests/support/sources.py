"""Files that hold many images: tar files, Parquet files and lists."""

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def write_tar(path: Path, files: Mapping[str, bytes], *, kind: int = tarfile.GNU_FORMAT) -> Path:
    """Write a tar file with members of these names."""
    with tarfile.open(path, "w", format=kind) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_table(path: Path, /, group_rows: int = 10, **columns: Sequence[object]) -> Path:
    """Write a Parquet file with these columns."""
    pq.write_table(pa.table(dict(columns)), path, row_group_size=group_rows)
    return path
