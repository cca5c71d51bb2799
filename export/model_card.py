"""The model card: what a model is for, what it was made from, how good it is, and what is not known about it.

The sections follow Mitchell et al. 2019, "Model Cards for Model Reporting" (arXiv:1810.03993).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unfreeze.contract.counted import counted
from unfreeze.contract.model.manifest import Manifest
from unfreeze.tune.data.images import SPLIT_WORDS

CARD_FILE = "MODEL_CARD.md"
_TO_FILL_IN = (
    "To be filled in: who uses the model, for which decisions, on images from which source, and what it must not be "
    "used for."
)
_FEW = 20  # validation images of a class, below which its recall is a rough figure
_SHOWN_CLASSES = 50
_NEEDED = {"per_class", "standard_errors", "findings", "calibration_error", "abstain", "trained_parameters", "recipe"}


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of a model card.

    Args:
        title: of the section.
        lines: its points, plain text.
        columns: of a table after them; empty without one.
        rows: of the table.
    """

    title: str
    lines: tuple[str, ...]
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


_INTENDED_USE = Section(title="Intended use", lines=(_TO_FILL_IN,))


def card_sections(metrics: dict[str, Any], provenance: dict[str, Any]) -> tuple[Section, ...]:
    """Describe a tuned network.

    Args:
        metrics: contents of the run's `metrics.json`.
        provenance: of `run.json`.
    """
    return (
        _INTENDED_USE,
        _model(metrics, provenance),
        _data(metrics),
        _figures(metrics),
        Section(title="Limits", lines=tuple(_limits(metrics))),
    )


def card_markdown(name: str, manifest: Manifest, metrics: dict[str, Any], provenance: dict[str, Any]) -> bytes:
    """Write the card of an exported model as Markdown in UTF-8.

    Args:
        name: of the model.
        manifest: of the exported model.
        metrics: contents of the run's `metrics.json`; what runs of earlier versions lack is left out.
        provenance: of `run.json`.
    """
    proof, (height, width, _) = manifest.proof, manifest.preprocess.shape
    form = (
        f"{manifest.precision} ONNX; input: images of {height} x {width} pixels, RGB; output: "
        f"{len(manifest.labels)} probabilities"
    )
    comparison = (
        f"compared with the trained network on {counted(proof.images, 'validation image')}: accuracy "
        f"{proof.accuracy:.1%} ({proof.trained_accuracy:.1%} in PyTorch), the same class for {proof.same_top1:.1%}, "
        f"largest difference of a probability {proof.largest_difference:.1e}"
    )
    exported = Section(title="Exported file", lines=(form, comparison))
    known = card_sections(metrics, provenance) if metrics.keys() >= _NEEDED else (_INTENDED_USE,)
    sections = (*known, exported)
    return "\n".join([f"# {_escaped(name)}\n", *map(_markdown, sections)]).encode("utf-8", "backslashreplace")


def _model(metrics: dict[str, Any], provenance: dict[str, Any]) -> Section:
    share = metrics["trained_parameters"] / metrics["parameters"]
    digest = f", SHA-256 {provenance['weights_sha256']}" if provenance["weights_sha256"] else ""
    license_name = metrics.get("weights_license") or "not known: find out before the model is published"
    versions = ", ".join(f"{package} {number}" for package, number in provenance["versions"].items())
    network = (
        f"{metrics['backbone']}, {metrics['parameters']:,} parameters, of which {metrics['trained_parameters']:,} "
        f"({share:.1%}) were trained: recipe {metrics['recipe']}, from {metrics['cut']} on"
    )
    return Section(
        title="Model",
        lines=(
            network,
            f"pretrained weights: {provenance['weights']}{digest}",
            f"license of the pretrained weights: {license_name}",
            *_teacher(provenance.get("distillation")),
            f"made with {versions}; seed {provenance['seed']}",
        ),
    )


def _teacher(distillation: dict[str, Any] | None) -> list[str]:
    """Describe the teacher that a model learned from, or that was tried."""
    if not distillation:
        return []
    version = f" version {distillation['version']}" if distillation["version"] else ""
    images = counted(distillation["unlabeled_images"], "image")
    scores = ", ".join(
        f"{distillation[f'{key}_accuracy']:.1%} {what} (standard error {distillation[f'{key}_standard_error']:.1%})"
        for key, what in (("own", "without it"), ("taught", "with it"))
        if distillation[f"{key}_accuracy"] is not None
    )
    outcome = "its answers were trained on" if distillation["kept"] else "tried, and not better than the labels alone"
    line = (
        f"teacher {distillation['name']}{version}, SHA-256 {distillation['sha256']}: {outcome}; temperature "
        f"{distillation['temperature']:g}, weight {distillation['weight']:g}, {images} without labels"
    )
    return [f"{line}; cross-validated accuracy {scores}" if scores else line]


def _data(metrics: dict[str, Any]) -> Section:
    images, labels = metrics["images"], metrics["labels"]
    lines = [
        "; ".join(f"{count:,} {SPLIT_WORDS[split]} images" for split, count in images.items())
        + f"; {len(labels):,} classes",
        *(finding["text"] for finding in metrics["findings"]),
    ]
    if sizes := metrics.get("sizes"):
        (narrow, width, wide), (low, height, high) = sizes["width"], sizes["height"]
        lines.insert(1, f"width {narrow} to {wide} pixels, median {width}; height {low} to {high}, median {height}")
    return Section(title="Data", lines=tuple(lines))


def _figures(metrics: dict[str, Any]) -> Section:
    lines = []
    for split, name in (("val", "validation accuracy"), ("test", "test accuracy"), ("probe_val", "probe alone")):
        if f"{split}_accuracy" in metrics:
            errors = metrics["standard_errors"]
            plain, balanced = f"{split}_accuracy", f"{split}_balanced_accuracy"
            lines.append(
                f"{name}: {metrics[plain]:.1%} (standard error {errors[plain]:.1%}); balanced over the classes "
                f"{metrics[balanced]:.1%} (standard error {errors[balanced]:.1%})"
            )
    error = metrics["calibration_error"]
    lines.append(f"expected calibration error: {error['after']:.3f} ({error['before']:.3f} without the temperature)")
    if metrics["abstain"]:
        lines.append(metrics["abstain"]["message"])
    if ood := metrics.get("ood"):
        lines += [f"out of distribution: {ood['choice']}", f"threshold {ood['threshold']:.4g}: {ood['message']}"]
    worst = _worst_classes(metrics)
    shown = "" if len(metrics["labels"]) == len(worst) else f"the {len(worst)} with the lowest recall"
    columns = (f"class{f' ({shown})' if shown else ''}", "validation images", "recall", "precision")
    return Section(title="Figures", lines=tuple(lines), columns=columns, rows=worst)


def _worst_classes(metrics: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    scored = [(label, metrics["per_class"][label]) for label in metrics["labels"]]
    validated = [(label, scores) for label, scores in scored if scores["images"]]
    ordered = sorted(validated, key=lambda one: (one[1]["recall"], one[0]))[:_SHOWN_CLASSES]
    return tuple(
        (label, str(scores["images"]), _share(scores["recall"]), _share(scores["precision"]))
        for label, scores in ordered
    )


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _limits(metrics: dict[str, Any]) -> list[str]:
    labels, per_class = metrics["labels"], metrics["per_class"]
    few = [label for label in labels if per_class[label]["images"] < _FEW]
    lines = [
        "The figures hold for images like the validation images. Other cameras, places or times were not tested.",
        "Every image gets one of the classes, also if it shows something else."
        + (
            " Images unlike the training images are marked; not all of them are recognized."
            if metrics.get("ood")
            else ""
        ),
    ]
    if few:
        lines.append(
            f"{counted(len(few), 'class has', 'classes have')} fewer than {_FEW} validation images, so that "
            f"{'its' if len(few) == 1 else 'their'} recall is a rough figure: {_listed(few)}"
        )
    if not metrics["abstain"]:
        lines.append("No confidence was chosen below which the model abstains (--abstain-precision).")
    return lines


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10:,} more" if len(names) > 10 else "")  # noqa: PLR2004


def _markdown(section: Section) -> str:
    lines = [f"## {section.title}", "", *(f"- {_escaped(line)}" for line in section.lines)]
    if section.rows:
        lines += ["", f"| {' | '.join(section.columns)} |", f"|{'---|' * len(section.columns)}"]
        lines += [f"| {' | '.join(map(_escaped, row))} |" for row in section.rows]
    return "\n".join([*lines, ""])


def _escaped(text: str) -> str:
    """Escape what Markdown and the HTML in it would read as markup."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in text)
