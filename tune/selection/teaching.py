"""Compare a taught student with its own tuning, by cross-validation on the training images."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from unfreeze.tune.evaluation.accuracy import METRIC_NAMES, accuracies, by_metric
from unfreeze.tune.evaluation.evaluate import Evaluation
from unfreeze.tune.options import Metric, TuneOptions
from unfreeze.tune.recipes.registry import PROBE, is_linear
from unfreeze.tune.selection.candidate import Candidate
from unfreeze.tune.selection.choose import TRIED_IMAGES, trial_folds
from unfreeze.tune.selection.comparison import accuracy_gain, correct, labels_of_folds, lead, mean_loss
from unfreeze.tune.selection.trials import SearchInputs, Trials

TEMPERATURES, TEACHER_WEIGHTS = (1.0, 2.0, 4.0), (0.5, 0.9)


@dataclass(frozen=True, kw_only=True)
class TaughtScore:
    """Cross-validated accuracy with or without a teacher.

    Args:
        temperature: that softens the answers.
        teacher_weight: of the answers in the loss; 0 without a teacher.
        accuracy: over all held-out images, 0 to 1.
        standard_error: of the accuracy.
        balanced_accuracy: over the same images, 0 to 1.
        balanced_standard_error: of the balanced accuracy.
        log_loss: mean over the images at the best temperature, in nats.
        images: number of held-out images.
    """

    temperature: float
    teacher_weight: float
    accuracy: float
    standard_error: float
    balanced_accuracy: float
    balanced_standard_error: float
    log_loss: float
    images: int


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a teacher makes its student better.

    Args:
        candidate: the taught one.
        kept: whether it is kept.
        reason: one sentence.
        own: the student alone; None if nothing could be compared.
        taught: the student with its teacher, on the same images. Where temperature and weight were chosen, each fold
            is classified with the ones that were best on the other folds.
        tried: the settings that were compared on frozen features; empty if there was no choice.
    """

    candidate: Candidate
    kept: bool
    reason: str
    own: TaughtScore | None = None
    taught: TaughtScore | None = None
    tried: tuple[TaughtScore, ...] = ()

    def state(self) -> dict[str, Any]:
        """Convert to plain types."""
        return asdict(self) | {"candidate": tuple(self.candidate)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Verdict":
        """Restore the result of `state`."""
        scores = {name: TaughtScore(**state[name]) if state[name] else None for name in ("own", "taught")}
        tried = tuple(TaughtScore(**one) for one in state["tried"])
        return cls(**state | scores | {"candidate": Candidate(*state["candidate"]), "tried": tried})


def judge_teacher(inputs: SearchInputs, own: Candidate) -> Verdict:
    """Choose temperature and weight, and decide whether the taught student is better than its own tuning.

    Temperature and weight are those with the lowest log loss of held-out images, of probes on frozen features. The
    taught student is kept if it leads by more than a standard error, in accuracy or in log loss, as
    `unfreeze.tune.selection.comparison.lead` measures it, and is not less accurate.

    Args:
        inputs: with the answers of the teacher.
        own: how the student is tuned without it.
    """
    settings = list(_settings(inputs.options, own))
    folds = trial_folds(inputs.extracted.labels.numpy(), TRIED_IMAGES, inputs.options.seed)
    if not folds:
        why = "a class has too few images to hold any out, so the teacher could not be judged and is not followed"
        return Verdict(candidate=settings[0], kept=False, reason=f"{own}: {why}")
    trials = Trials(inputs=inputs, folds=folds)
    probes = [Candidate.linear(PROBE)._replace(**_setting(one)) for one in settings]
    linear = is_linear(own.recipe)
    for candidate in probes if linear or len(probes) > 1 else ():
        trials.run(candidate)
    tried = {probe: trials.evaluations[probe] for probe in probes if probe in trials.evaluations}
    best = settings[_best(list(tried.values()), inputs.metric)] if len(settings) > 1 else settings[0]
    trials.run(own)
    if linear:
        evaluations = _each_with_the_best_of_the_others(list(tried.values()), inputs.metric)
    else:
        trials.run(best)
        evaluations = trials.evaluations[best]
    diverged = best in trials.diverged
    return _verdict(best, own, evaluations, trials.evaluations[own], inputs.metric, diverged=diverged, tried=tried)


def _settings(options: TuneOptions, own: Candidate) -> Iterator[Candidate]:
    """Yield the taught candidates: of a linear recipe, probes, because only these can be taught."""
    student = Candidate.linear(PROBE) if is_linear(own.recipe) else own
    for temperature in (options.temperature,) if options.temperature else TEMPERATURES:
        for weight in (options.teacher_weight,) if options.teacher_weight else TEACHER_WEIGHTS:
            yield student._replace(temperature=temperature, teacher_weight=weight)


def _setting(candidate: Candidate) -> dict[str, Any]:
    return {"temperature": candidate.temperature, "teacher_weight": candidate.teacher_weight}


def _best(tried: Sequence[Sequence[Evaluation]], metric: Metric) -> int:
    """Return the number of the setting with the lowest log loss."""
    return int(np.argmin([mean_loss(evaluations, metric) for evaluations in tried]))


def _each_with_the_best_of_the_others(tried: Sequence[Sequence[Evaluation]], metric: Metric) -> list[Evaluation]:
    """Return the evaluation of each fold, with the setting that is the best one on the other folds.

    The best of several settings looks better on the images that chose it than it is (Varma and Simon 2006).
    """
    chosen = []
    for fold in range(len(tried[0])):
        others = [[*evaluations[:fold], *evaluations[fold + 1 :]] for evaluations in tried]
        chosen.append(tried[_best(others, metric)][fold])
    return chosen


def _verdict(
    best: Candidate,
    own: Candidate,
    taught: list[Evaluation],
    alone: list[Evaluation],
    metric: Metric,
    *,
    diverged: bool,
    tried: dict[Candidate, list[Evaluation]],
) -> Verdict:
    alone = alone[: len(taught)]
    better = not diverged and lead(taught, alone, metric) > 1 and accuracy_gain(taught, alone, metric) >= 0
    scores = _score(own, alone, metric), _score(best, taught, metric)
    found = " and ".join(
        f"{by_metric(one, metric).mean:.3f} ± {by_metric(one, metric).standard_error:.3f} {what} (log loss "
        f"{one.log_loss:.3f})"
        for one, what in zip(scores, ("alone", "taught"), strict=True)
    )
    verdict = "beats its own tuning and is kept" if better else "does not clearly beat its own tuning, which is kept"
    return Verdict(
        candidate=best,
        kept=better,
        reason=f"{best} {verdict} (cross-validated {METRIC_NAMES[metric]}: {found})",
        own=scores[0],
        taught=scores[1],
        tried=tuple(_score(probe, evaluations, metric) for probe, evaluations in tried.items())
        if len(tried) > 1
        else (),
    )


def _score(candidate: Candidate, evaluations: Sequence[Evaluation], metric: Metric) -> TaughtScore:
    labels = labels_of_folds(evaluations)
    return TaughtScore(
        **_setting(candidate),
        **accuracies(correct(evaluations), labels),
        log_loss=mean_loss(evaluations, metric),
        images=len(labels),
    )
