"""The columns of a comparison's table, for terminals and pages."""

from dataclasses import dataclass

from unfreeze.compare.result import Comparison, Row


@dataclass(frozen=True, kw_only=True)
class TableColumn:
    """A column.

    Args:
        title: its heading.
        number: whether it holds numbers.
    """

    title: str
    number: bool = True


COLUMNS = (
    TableColumn(title="backbone", number=False),
    TableColumn(title="weights", number=False),
    TableColumn(title="M params"),
    TableColumn(title="size"),
    TableColumn(title="head", number=False),
    TableColumn(title="accuracy"),
    TableColumn(title="balanced"),
    TableColumn(title="precision", number=False),
    TableColumn(title="ms at 1"),
    TableColumn(title="images/s at 32"),
    TableColumn(title="MB"),
    TableColumn(title="front", number=False),
    TableColumn(title="budget", number=False),
    TableColumn(title="note", number=False),
)


def cells(row: Row) -> tuple[str, ...]:
    """Return the texts of a row, in the order of the columns; what is unknown is empty."""
    budget = {None: "", True: "within", False: "over"}[row.within_budget]
    return (
        row.backbone,
        row.weights,
        _number(None if row.parameters is None else row.parameters / 1e6, 1),
        "" if row.image_size is None else f"{row.image_size[0]} x {row.image_size[1]}",
        row.head,
        _share(row.accuracy, row.standard_error),
        _share(row.balanced_accuracy, row.balanced_standard_error),
        row.precision,
        _number(row.latency_ms, 1),
        _number(row.images_per_second, 0),
        _number(row.megabytes, 1),
        "yes" if row.on_front else "",
        budget,
        row.note if row.status == "compared" else f"{row.status}: {row.note}",
    )


def summary(comparison: Comparison) -> str:
    """Describe in a few sentences what was measured, and how."""
    machine = comparison.machine
    return (
        f"Accuracy ± standard error: cross-validated on {comparison.images:,} training images of "
        f"{comparison.classes} classes. Latency: median of the exported model in ONNX Runtime on {machine['cpu']} with "
        f"{machine['cores']} cores, without decoding and resizing the image. Front: no other backbone that was "
        "compared on all images is both faster and more accurate. All passes over images cost "
        f"{comparison.relative_cost:.1f} times what the slowest backbone costs alone."
    )


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _share(value: float | None, error: float | None) -> str:
    return "" if value is None or error is None else f"{value:.3f} ± {error:.3f}"
