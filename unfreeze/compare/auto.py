"""`unfreeze tune --backbone auto`: tune what a comparison recommends."""

import os
from dataclasses import replace
from pathlib import Path

from unfreeze.compare.options import CompareOptions
from unfreeze.compare.run import compare_backbones
from unfreeze.contract.errors import OptionsError, UnfreezeError
from unfreeze.contract.reporting import Reporter
from unfreeze.tune.artifacts.resume import ResumeState
from unfreeze.tune.options import TuneOptions

_RECORDED = ("backbone", "weights", "backbone_reason")


def choose_backbone(
    data: str | os.PathLike[str],
    out: Path,
    options: TuneOptions,
    compare: CompareOptions,
    reporter: Reporter,
    *,
    resume: bool = False,
) -> TuneOptions:
    """Return the options with the recommended backbone, its weights and the reason.

    Args:
        data: folder of labeled images, or a CSV file.
        out: the run's folder.
        options: options of the run, whose backbone is "auto".
        compare: which backbones to compare, and the latency budget.
        reporter: shows progress and the recommendation.
        resume: take the backbone that the unfinished run in `out` was started with.

    Raises:
        OptionsError: weights are given, which belong to one backbone.
        UnfreezeError: no backbone can be recommended.
    """
    if options.weights != "default":
        raise OptionsError(
            f"--weights {options.weights} belongs to one backbone, and --backbone auto compares several; give "
            "--backbones NAME=WEIGHTS,..."
        )
    started = ResumeState(out).options() if resume else {}
    if started.get("backbone_reason"):
        return replace(options, **{name: str(started[name]) for name in _RECORDED})  # type: ignore[arg-type]
    comparison = compare_backbones(data, compare, options, reporter)
    if comparison.recommended is None:
        raise UnfreezeError(f"--backbone auto: {comparison.reason}")
    reporter.info(comparison.reason)
    backbone, weights = comparison.recommended
    return replace(options, backbone=backbone, weights=weights, backbone_reason=comparison.reason)
