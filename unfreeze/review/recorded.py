"""The images that a server has recorded, as their descriptions have them; no image is opened."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unfreeze.contract.errors import UnfreezeError
from unfreeze.contract.json_text import json_text

_LABELS = "labels.json"
_DIGEST_LENGTH = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedImage:
    """A recorded image and the latest version's answer.

    Args:
        digest: SHA-256 of the encoded bytes, which is the file's name.
        path: of the image.
        version: that answered.
        scores: labels and their scores, the highest first.
        unsure: whether the top score was below the model's threshold; None without one.
        reasons: why it was kept.
        seen: how often it was answered.
        time: when it was first answered, as text.
    """

    digest: str
    path: Path
    version: str
    scores: tuple[tuple[str, float], ...]
    unsure: bool | None
    reasons: tuple[str, ...]
    seen: int
    time: str

    @property
    def label(self) -> str:
        """The most probable label."""
        return self.scores[0][0]

    @property
    def margin(self) -> float:
        """Difference of the two highest scores: the smaller, the more there is to learn from a person."""
        return self.scores[0][1] - (self.scores[1][1] if len(self.scores) > 1 else 0.0)


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What a server has recorded of one model.

    Args:
        model: name of the model.
        folder: of the model.
        images: each once, also if several versions have answered it.
        labels: of the newest version, then further ones of older versions.
        problems: files that cannot be used, with the reason.
    """

    model: str
    folder: Path
    images: dict[str, RecordedImage]
    labels: tuple[str, ...]
    problems: tuple[str, ...]


def read_recording(root: Path, model: str | None = None) -> Recording:
    """Read the descriptions below a folder that `unfreeze serve --record` has written.

    Args:
        root: the folder.
        model: name of the model; None if there is only one.

    Raises:
        UnfreezeError: there is no such folder or model, or several models and no name.
    """
    folder = _model_folder(root, model)
    images: dict[str, RecordedImage] = {}
    labels: dict[str, None] = {}
    problems: list[str] = []
    for version in sorted(_folders(folder), key=lambda path: (len(path.name), path.name), reverse=True):
        labels |= dict.fromkeys(_labels(version))
        for path in _descriptions(version):
            try:
                image = _read(path, version.name)
            except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
                problems.append(json_text(f"{path}: {type(error).__name__}: {error}")[1:-1])
                continue
            images.setdefault(image.digest, image)
    labels |= dict.fromkeys(sorted({label for image in images.values() for label, _ in image.scores}))
    return Recording(model=folder.name, folder=folder, images=images, labels=tuple(labels), problems=tuple(problems))


def _model_folder(root: Path, model: str | None) -> Path:
    if not root.is_dir():
        raise UnfreezeError(f"{root} is no folder; give the folder of `unfreeze serve --record`")
    found = {folder.name: folder for folder in _folders(root) if any(map(_looks_recorded, _folders(folder)))}
    if not found:
        raise UnfreezeError(f"{root} has no recorded images; give the folder of `unfreeze serve --record`")
    names = ", ".join(sorted(found))
    if model is None and len(found) > 1:
        raise UnfreezeError(f"{root} has images of several models; choose one with --model: {names}")
    if model is not None and model not in found:
        raise UnfreezeError(f"{root} has no images of model {model}; it has: {names}")
    return found[model] if model is not None else next(iter(found.values()))


def _looks_recorded(version: Path) -> bool:
    return version.name.isdecimal() and ((version / _LABELS).is_file() or any(_descriptions(version)))


def _folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return [Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith(".")]


def _descriptions(version: Path) -> Iterator[Path]:
    for folder in _folders(version):
        with os.scandir(folder) as entries:
            names = [entry.path for entry in entries if entry.name.endswith(".json") and not entry.name.startswith(".")]
        yield from map(Path, names)


def _labels(version: Path) -> list[str]:
    try:
        labels = json.loads((version / _LABELS).read_bytes())
    except (OSError, ValueError):
        return []
    return [label for label in labels if isinstance(label, str)] if isinstance(labels, list) else []


def _read(path: Path, version: str) -> RecordedImage:
    """Read a description.

    Raises:
        OSError, ValueError, KeyError, TypeError, IndexError: it is damaged, or its image is missing.
    """
    document: dict[str, Any] = json.loads(path.read_bytes())
    if len(path.stem) != _DIGEST_LENGTH:
        raise ValueError("its name is no SHA-256 digest")
    scores = tuple((_text(one["label"]), float(one["score"])) for one in document["labels"])
    if not scores:
        raise ValueError("it has no labels")
    unsure = document.get("unsure")
    return RecordedImage(
        digest=path.stem,
        path=_image_of(path),
        version=version,
        scores=scores,
        unsure=unsure if isinstance(unsure, bool) else None,
        reasons=tuple(map(_text, document["reasons"])),
        seen=int(document["seen"]),
        time=_text(document["time"]),
    )


def _image_of(description: Path) -> Path:
    usual = description.with_suffix(".jpg")
    if usual.is_file():
        return usual
    for path in description.parent.glob(f"{description.stem}.*"):
        if path != description:
            return path
    raise FileNotFoundError("its image is missing")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text was expected, not {type(value).__name__}")
    return value
