"""The result of a comparison."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from unfreeze.tune.evaluation.accuracy import Estimate
from unfreeze.tune.options import BALANCED, Metric

Status = Literal["compared", "dropped", "failed"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is known about one backbone.

    Args:
        backbone: its name, with the weights if it is compared with several ones.
        weights: "default", "builtin", "none", or the file's name.
        status: "compared" on all images; "dropped" before; or "failed".
        note: why it was dropped or failed; for others, how the precision was chosen.
        parameters: of the network with its head.
        image_size: height and width of the input in pixels.
        images: number of images that were held out in turn.
        head: "probe", or the blocks that were trained.
        accuracy: cross-validated, 0 to 1.
        standard_error: of the accuracy.
        balanced_accuracy: mean of the classes' recalls.
        balanced_standard_error: of the balanced accuracy.
        probe_accuracy: of the probe, where the head is another one.
        precision: of the exported model, "fp32" or "int8".
        latency_ms: median latency of one image, without decoding and resizing it.
        images_per_second: throughput in batches of 32.
        megabytes: size of the ONNX file.
        on_front: whether no other compared backbone is both faster and more accurate.
        within_budget: whether the latency is within the budget; None without a budget.
    """

    backbone: str
    weights: str
    status: Status
    note: str = ""
    parameters: int | None = None
    image_size: tuple[int, int] | None = None
    images: int = 0
    head: str = ""
    accuracy: float | None = None
    standard_error: float | None = None
    balanced_accuracy: float | None = None
    balanced_standard_error: float | None = None
    probe_accuracy: float | None = None
    precision: str = ""
    latency_ms: float | None = None
    images_per_second: float | None = None
    megabytes: float | None = None
    on_front: bool = False
    within_budget: bool | None = None

    def compared_by(self, metric: Metric) -> Estimate | None:
        """Return the accuracy that a metric stands for; None if it is unknown."""
        balanced = metric == BALANCED
        mean = self.balanced_accuracy if balanced else self.accuracy
        error = self.balanced_standard_error if balanced else self.standard_error
        return None if mean is None or error is None else Estimate(mean, error)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The result of a comparison.

    Args:
        data: the dataset.
        images: number of training images that were compared on.
        classes: number of classes.
        metric: what backbones are compared by: "accuracy" or "balanced" for balanced accuracy.
        budget_ms: largest acceptable latency of one image; None if there is none.
        rows: of all backbones: compared ones from the fastest on, then dropped and failed ones.
        recommended: backbone and weights to tune; None if no backbone could be compared, or none is within the budget.
        recommended_row: the recommended row's `backbone`.
        reason: the recommendation in a sentence.
        relative_cost: cost of all passes over images, as a multiple of what the slowest backbone costs on all images.
        machine: processor and cores on which the latencies were measured.
        seconds: duration of the comparison.
    """

    data: str
    images: int
    classes: int
    metric: Metric
    budget_ms: float | None
    rows: tuple[Row, ...]
    recommended: tuple[str, str] | None
    recommended_row: str | None
    reason: str
    relative_cost: float
    machine: dict[str, str]
    seconds: float

    def document(self) -> dict[str, Any]:
        """Return the result as plain types, for JSON."""
        document = asdict(self)
        if self.recommended is not None:
            document["recommended"] = dict(zip(("backbone", "weights"), self.recommended, strict=True))
        return document
