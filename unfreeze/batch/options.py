"""Options of a job."""

from dataclasses import dataclass
from pathlib import Path

from unfreeze.batch.sources.entry import SourceOptions

_SOURCE = SourceOptions()


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """Options of a job that classifies images.

    Args:
        model: a `model.onnx`, the folder of a version, or the folder of a model.
        out: the Parquet file or folder to write.
        device: the runtime's name.
        top_k: number of labels of an image.
        source: how sources are read.
        ray: "auto" or the address of a Ray cluster; None works in this process.
        overwrite: whether another result in `out`, finished or not, is replaced.
    """

    model: Path
    out: Path
    device: str = "cpu"
    top_k: int = 5
    source: SourceOptions = _SOURCE
    ray: str | None = None
    overwrite: bool = False
