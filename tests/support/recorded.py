"""Recorded images, as a server writes them."""

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from support.images import encode
from support.manifests import MANIFEST
from unfreeze.serve.recording.answered import Answered
from unfreeze.serve.recording.keeping import KeptImages
from unfreeze.serve.recording.local_folder import LocalFolder

LABELS = ("daisy", "rose", "tulip")


def drawn(seed: int, shift: int = 0) -> bytes:
    """Draw an image of large colored squares; those of one seed are near copies of each other."""
    squares = np.random.default_rng(seed).integers(0, 250, (4, 4, 3), dtype=np.uint8) + np.uint8(shift)
    return encode(Image.fromarray(squares).resize((64, 64), Image.Resampling.NEAREST), "PNG")


def record(
    root: Path,
    images: Iterable[tuple[bytes, Sequence[float]]],
    *,
    model: str = "flowers",
    version: str = "1",
    labels: Sequence[str] = LABELS,
    options: Mapping[str, object] | None = None,
) -> Path:
    """Record images with their scores.

    Args:
        root: the folder.
        images: encoded images, and the score of each label.
        model: name of the model.
        version: that has answered.
        labels: of the model.
        options: further fields of `Answered`.
    """
    storage = LocalFolder(str(root))
    storage.prepare()
    kept = KeptImages(storage, 2**40, 1e9)
    manifest = dataclasses.replace(MANIFEST, labels=tuple(labels))
    for data, scores in images:
        answered = Answered(
            data=data,
            model=model,
            version=version,
            manifest=manifest,
            row=np.array(scores, np.float32),
            **({"reasons": ("unsure",), "request_id": "", "time": time.time()} | dict(options or {})),
        )
        kept.add(answered)
    return root
