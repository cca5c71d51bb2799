"""`unfreeze tune --backbone auto`: tune what a comparison recommends."""

import os
from dataclasses import replace
from pathlib import Path

from unfreeze.compare.options import CompareOptions
from unfreeze.compare.run import compare_backbones
from unfreeze.contract.errors import OptionsError, UnfreezeError
from unfreeze.contract.reporting import Reporter
from unfreeze.tune.artifacts.resume import ResumeState
from unfreeze.tune.backbones.sources import AUTO
from unfreeze.tune.options import TuneOptions

_RECORDED = ("backbone", "weights", "backbone_reason")


def with_recommended(
    data: str | os.PathLike[str], options: TuneOptions, compare: CompareOptions, reporter: Reporter
) -> TuneOptions:
    """Compare backbones, and return the options with the recommended one, its weights and the reason.

    Args:
        data: folder of labeled images, or a CSV file.
        options: options of the run, whose backbone is "auto".
        compare: which backbones to compare, and the latency budget.
        reporter: shows progress and the recommendation.

    Raises:
        OptionsError: weights are given, which belong to one backbone.
        UnfreezeError: no backbone can be recommended.
    """
    if options.weights != "default":
        raise OptionsError(
            f"--weights {options.weights} belongs to one backbone, and --backbone auto compares several; give "
            "--backbones NAME=WEIGHTS,..."
        )
    comparison = compare_backbones(data, compare, options, reporter)
    if comparison.recommended is None:
        raise UnfreezeError(f"--backbone auto: {comparison.reason}")
    reporter.info(comparison.reason)
    backbone, weights = comparison.recommended
    return replace(options, backbone=backbone, weights=weights, backbone_reason=comparison.reason)


def with_resumed(out: Path, options: TuneOptions) -> TuneOptions:
    """Return the options with the backbone that an unfinished run was started with.

    Args:
        out: the run's folder.
        options: options of the run, whose backbone is "auto".
    """
    started = ResumeState(out).options()
    recorded = {name: str(started[name]) for name in _RECORDED if name in started}
    return replace(options, **recorded) if recorded.get("backbone", AUTO) != AUTO else options  # type: ignore[arg-type]
