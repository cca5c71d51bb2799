"""What is suspicious about an image."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["label", "duplicate", "outlier", "blank", "small"]
LABEL: Kind = "label"
DUPLICATE: Kind = "duplicate"
OUTLIER: Kind = "outlier"
BLANK: Kind = "blank"
SMALL: Kind = "small"


@dataclass(frozen=True, kw_only=True)
class Issue:
    """An image that is worth a look.

    Args:
        path: of the image.
        split: "train", "val" or "test".
        label: index of its label.
        suggested: index of the label that it probably has; `label` itself if another one is no better.
        kind: "label" (probably another class), "duplicate" (the same image has another label too), "outlier" (far from
            every class in feature space), "blank" (nearly one color) or "small" (much smaller than the others).
        probability: of its label, 0 to 1, by a classifier that was not trained on the image; None if there is none.
        suggested_probability: of the suggested label, in the same way.
        detail: what else there is to say, such as the path of the other image, or the size.
    """

    path: Path
    split: str
    label: int
    suggested: int
    kind: Kind
    probability: float | None = None
    suggested_probability: float | None = None
    detail: str = ""
