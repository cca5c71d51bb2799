"""Find suspicious images of a run, and report them."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from unfreeze.contract.counted import counted
from unfreeze.tune.artifacts.results import TuningResult
from unfreeze.tune.data.dataset import stored_path
from unfreeze.tune.data.images import TEST, TRAIN, VAL, LabeledImage, labels_of
from unfreeze.tune.issues.confident_learning import suspected_labels
from unfreeze.tune.issues.issue import BLANK, DUPLICATE, LABEL, OUTLIER, SMALL, Issue, Kind
from unfreeze.tune.issues.issue_file import ISSUES_FILE
from unfreeze.tune.issues.out_of_fold import out_of_fold_probabilities
from unfreeze.tune.issues.outliers import far_from_every_class
from unfreeze.tune.linear.probe import Probe
from unfreeze.tune.pipeline.context import RunContext

_KINDS = {
    LABEL: ("probably has another label", "probably have another label"),
    DUPLICATE: ("equals one with another label", "equal ones with another label"),
    OUTLIER: ("is far from every class", "are far from every class"),
    BLANK: ("is nearly one color", "are nearly one color"),
    SMALL: ("is much smaller than the others", "are much smaller than the others"),
}


def training_issues(context: RunContext, features: Tensor, probe: Probe) -> tuple[Issue, ...]:
    """Find training images that probes of the other ones contradict, and those that are far from every class.

    Args:
        context: state of the run.
        features: of all training images, float32 [N, V, F]; the first view is used.
        probe: fitted on them.
    """
    images, served = context.dataset.splits[TRAIN], features[:, 0].contiguous()
    labels = labels_of(images)
    strength, seed = probe.inverse_regularization, context.options.seed
    rows, found = out_of_fold_probabilities(served, labels, strength, seed, context.reporter)
    suspected = _suspected([images[row] for row in rows], TRAIN, found)
    far = far_from_every_class(served, labels)
    return (*suspected, *(_unchanged(images[row], TRAIN, OUTLIER) for row in far))


def find_issues(context: RunContext, result: TuningResult, training: Sequence[Issue]) -> tuple[Issue, ...]:
    """Combine what is suspicious, one issue for an image; report the numbers.

    Args:
        context: state of the run.
        result: of the run; its network judges the validation and test images.
        training: result of `training_issues`.
    """
    inspection, dataset = context.inspection, context.dataset
    split_of = {image.path: split for split, images in dataset.splits.items() for image in images}
    found = [_unchanged(one, split_of[one.path], BLANK) for one in inspection.blank if one.path in split_of]
    found += [one for one in training if one.kind == LABEL]
    for split, evaluation in ((VAL, result.evaluation), (TEST, result.test)):
        if evaluation is not None:
            found += _suspected(evaluation.images, split, evaluation.probabilities(result.temperature))
    for verb, pairs in (("equals", inspection.contradictions), ("nearly equals", inspection.near_contradictions)):
        for one, other in (pair for image, original in pairs for pair in ((image, original), (original, image))):
            if one.path in split_of:
                detail = f"{verb} {stored_path(other.path, dataset.root)} ({dataset.labels[other.label]})"
                found.append(_unchanged(one, split_of[one.path], DUPLICATE, detail))
    found += [one for one in training if one.kind == OUTLIER]
    small = ((one, size) for one, size in inspection.small if one.path in split_of)
    found += [_unchanged(one, split_of[one.path], SMALL, size) for one, size in small]
    first = {one.path: one for one in reversed(found)}  # a blank image has no right label
    issues = tuple(one for kind in _KINDS for one in found if one.kind == kind and first[one.path] is one)
    if issues:
        counts = Counter(one.kind for one in issues)
        kinds = [(counts[kind], verbs) for kind, verbs in _KINDS.items() if counts[kind]]
        described = "; ".join(f"{counted(count, 'image')} {verbs[count > 1]}" for count, verbs in kinds)
        context.reporter.info(
            f"{described}: look at them in {context.placement.folder / ISSUES_FILE}, delete the lines of those that "
            "are right, and tune again with --drop-issues or --relabel and this file"
        )
    return issues


def _suspected(images: Sequence[LabeledImage], split: str, probabilities: np.ndarray) -> Iterator[Issue]:
    labels = labels_of(images).numpy()
    for row, suggested in zip(*suspected_labels(probabilities, labels), strict=True):
        yield Issue(
            path=images[row].path,
            split=split,
            label=images[row].label,
            suggested=int(suggested),
            kind=LABEL,
            probability=float(probabilities[row, labels[row]]),
            suggested_probability=float(probabilities[row, suggested]),
        )


def _unchanged(image: LabeledImage, split: str, kind: Kind, detail: str = "") -> Issue:
    """Return an issue without a better label."""
    return Issue(path=image.path, split=split, label=image.label, suggested=image.label, kind=kind, detail=detail)
