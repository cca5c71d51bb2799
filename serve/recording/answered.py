"""An image with what was answered, as it is stored: the encoded image, and a JSON file beside it."""

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from unfreeze.contract.answers import read_answer
from unfreeze.contract.arrays import Float32
from unfreeze.contract.images.formats import FORMATS
from unfreeze.contract.model.manifest import Manifest

_TOP_K = 5
_SUFFIXES = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WebP": ".webp",
    "GIF": ".gif",
    "BMP": ".bmp",
    "TIFF": ".tiff",
    "AVIF": ".avif",
    "JPEG 2000": ".jp2",
    "PNM": ".pnm",
    "HEIC": ".heic",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """An image with what was answered.

    Args:
        data: the encoded image.
        model: name of the model.
        version: that answered.
        manifest: of the version.
        row: of the model's output.
        reasons: why the image is kept.
        request_id: of the request.
        time: of the answer, in seconds since 1970.
    """

    data: bytes
    model: str
    version: str
    manifest: Manifest
    row: Float32[np.ndarray, " a"]
    reasons: tuple[str, ...]
    request_id: str
    time: float

    def path(self) -> str:
        """Return the path of the image without its suffix, by the digest of its bytes."""
        digest = hashlib.sha256(self.data).hexdigest()
        return f"{self.model}/{self.version}/{digest[:2]}/{digest}"

    def suffix(self) -> str:
        """Return the suffix of the image's format."""
        name = next((one.name for one in FORMATS if one.recognizes(self.data)), "")
        return _SUFFIXES.get(name, ".image")

    def document(self) -> dict[str, Any]:
        """Describe what was answered."""
        answer = read_answer(self.row, self.manifest, _TOP_K)
        top = answer.predictions
        height, width, _ = self.manifest.preprocess.shape
        time = timestamp(self.time)
        return {
            "time": time,
            "last_seen": time,
            "seen": 1,
            "model": self.model,
            "version": self.version,
            "label": top[0].label,
            "labels": [{"label": one.label, "score": round(one.score, 6)} for one in top],
            "unsure": answer.unsure,
            "out_of_distribution": answer.out_of_distribution,
            "ood_score": answer.ood_score,
            "reasons": list(self.reasons),
            "request_id": self.request_id,
            "prepared_width": width,
            "prepared_height": height,
        }


def seen_again(document: dict[str, Any], answered: Answered, times: int) -> dict[str, Any]:
    """Return the description of an image that is stored already, and was answered again.

    Args:
        document: what is stored.
        answered: the latest of the new answers.
        times: number of the new answers.
    """
    reasons = list(dict.fromkeys([*document["reasons"], *answered.reasons]))
    return document | {
        "seen": document["seen"] + times,
        "last_seen": timestamp(answered.time),
        "reasons": reasons,
    }


def read_document(content: bytes | None) -> dict[str, Any] | None:
    """Parse a stored description; None if there is none, or it is damaged."""
    try:
        document = json.loads(content or b"")
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or type(document.get("seen")) is not int:
        return None
    return document if isinstance(document.get("reasons"), list) else None


def timestamp(seconds: float) -> str:
    """Write a time in UTC, as ISO 8601 has it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
