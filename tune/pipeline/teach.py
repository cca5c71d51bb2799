"""Let a teacher answer, decide whether its answers make the student better, and train on them if they do."""

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from unfreeze.contract.model.manifest import Distillation
from unfreeze.tune.artifacts.resume import TEACHING
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.data.dataset import TRAIN
from unfreeze.tune.data.images import LabeledImage, labels_of
from unfreeze.tune.data.inspection.findings import finding
from unfreeze.tune.distillation.answers import Answers, ask
from unfreeze.tune.distillation.lesson import TeacherAnswers
from unfreeze.tune.distillation.teacher import Teacher, match_labels
from unfreeze.tune.features.extract import ExtractedFeatures, extract_features
from unfreeze.tune.linear.probe import Probe
from unfreeze.tune.linear.taught import fit_taught_probe
from unfreeze.tune.pipeline.choose import Chosen, extract_training_images
from unfreeze.tune.pipeline.context import RunContext
from unfreeze.tune.recipes.registry import is_linear
from unfreeze.tune.selection.candidate import Candidate
from unfreeze.tune.selection.teaching import Verdict, judge_teacher
from unfreeze.tune.selection.trials import SearchInputs


@dataclass(frozen=True, kw_only=True)
class Taught:
    """What became of a teacher.

    Args:
        teacher: the teacher.
        verdict: whether it makes the student better.
        probe: fitted on its answers to all images; None if it is not followed.
        answers: its answers; None if they are not needed any more.
        asked: number of images that it was asked about in this run; the other answers were stored.
        unlabeled: number of images without a label.
    """

    teacher: Teacher
    verdict: Verdict
    probe: Probe | None
    answers: TeacherAnswers | None
    asked: int
    unlabeled: int

    def network(self, probed: Network) -> Network:
        """Return the pretrained network with the taught probe as its head.

        Args:
            probed: the pretrained network, which is not changed.
        """
        if self.probe is None:
            raise AssertionError("only a teacher that is followed has a probe")
        network = copy.deepcopy(probed)
        self.probe.put_into(network.head)
        return network

    def provenance(self) -> Distillation:
        """Describe the teacher and its effect for the manifest."""
        identity, verdict, candidate = self.teacher.identity, self.verdict, self.verdict.candidate
        taught, own = verdict.taught, verdict.own
        return Distillation(
            name=identity.name,
            version=identity.version,
            sha256=identity.sha256,
            temperature=candidate.temperature,
            weight=candidate.teacher_weight,
            unlabeled_images=self.unlabeled,
            kept=verdict.kept,
            taught_accuracy=taught.accuracy if taught else None,
            taught_standard_error=taught.standard_error if taught else None,
            own_accuracy=own.accuracy if own else None,
            own_standard_error=own.standard_error if own else None,
        )

    def metrics(self) -> dict[str, Any]:
        """Describe all that was measured, for `metrics.json`."""
        state = self.verdict.state()
        scores = {name: state[name] for name in ("reason", "own", "taught", "tried")}
        backbone = {"backbone": self.teacher.identity.backbone}
        return vars(self.provenance()) | backbone | scores | {"asked_images": self.asked}


def teach(context: RunContext, chosen: Chosen) -> tuple[Chosen, Taught | None]:
    """Decide whether a student is taught.

    Args:
        context: state of the run; if the student's own tuning is kept, the inspection gets a finding that says so.
        chosen: how the student is tuned without a teacher.

    Returns:
        What was chosen, taught if that is better, and what became of the teacher; None without one.

    Raises:
        DataError: an image no longer decodes.
    """
    if context.teacher is None:
        return chosen, None
    candidate, saved = chosen.choice.candidate, context.resume_state.load(TEACHING)
    verdict = Verdict.from_state(saved["verdict"]) if saved else None
    probe = Probe(**saved["probe"]) if saved and saved["probe"] else None
    answers, asked = None, 0
    if verdict is None or (verdict.kept and not is_linear(candidate.recipe)):
        if verdict is None and chosen.extracted is None:  # the run was interrupted since the choice
            chosen = replace(chosen, extracted=extract_training_images(context, candidate))
        answers, asked = _answers(context, candidate, chosen.extracted)
    if verdict is None and answers is not None and chosen.extracted is not None:
        verdict = judge_teacher(_inputs(context, chosen, chosen.extracted, answers), candidate)
        probe = _fit(context, chosen, chosen.extracted, answers, verdict.candidate) if verdict.kept else None
        context.resume_state.save(TEACHING, {"verdict": verdict.state(), "probe": vars(probe) if probe else None})
    if verdict is None:
        raise AssertionError("the teacher was neither judged now nor before")
    unlabeled = len(context.inspection.unlabeled)
    taught = Taught(
        teacher=context.teacher,
        verdict=verdict,
        probe=probe,
        answers=answers if verdict.kept else None,
        asked=asked,
        unlabeled=unlabeled,
    )
    context.reporter.info(f"teacher {context.teacher.identity}: {verdict.reason}")
    if not verdict.kept:
        found = finding(
            "teacher", f"the teacher is not followed: {verdict.reason}", [str(context.teacher.identity)], handled=True
        )
        context.inspection = replace(context.inspection, findings=(*context.inspection.findings, found))
        return chosen, taught
    choice = replace(chosen.choice, candidate=verdict.candidate, reason=f"{chosen.choice.reason}; {verdict.reason}")
    return replace(chosen, choice=choice), taught


def _answers(
    context: RunContext, candidate: Candidate, extracted: ExtractedFeatures | None
) -> tuple[TeacherAnswers, int]:
    """Collect the teacher's answers, and what the student's frozen blocks compute of images without a label."""
    unlabeled = _extract_unlabeled(context, candidate, extracted) if context.inspection.unlabeled else None
    labeled = _ask(context, context.dataset.splits[TRAIN], "training images")
    others = _ask(context, unlabeled.streamed.images if unlabeled else (), "images without labels")
    answers = TeacherAnswers(labeled=labeled.values, unlabeled=others.values, extracted=unlabeled)
    return answers, labeled.computed + others.computed


def _ask(context: RunContext, images: tuple[LabeledImage, ...], which: str) -> Answers:
    if context.teacher is None:
        raise AssertionError("there is no teacher to ask")
    if not images:
        shape = 0, context.options.views, len(context.dataset.labels)
        return Answers(values=torch.empty(shape), computed=0)
    order = match_labels(context.teacher.labels, context.dataset.labels, str(context.teacher.identity))
    advance = context.reporter.track(f"asking the teacher about the {which}", len(images))
    return ask(context.teacher, order, images, context.views, context.store, context.inspection.digests, advance)


def _extract_unlabeled(
    context: RunContext, candidate: Candidate, extracted: ExtractedFeatures | None
) -> ExtractedFeatures:
    """Run the frozen blocks over the images without labels; what the labeled ones leave of the budget caches them."""
    taken = extracted.cached_bytes if extracted else 0
    images, placement = context.inspection.unlabeled, context.placement
    return extract_features(
        context.network,
        context.network.position(candidate.cut),
        images,
        context.views,
        context.precision,
        replace(placement, budget_bytes=max(0, placement.budget_bytes - taken)),
        context.reporter.track("running the backbone over the images without labels", len(images)),
        stored=context.training_rows,
    )


def _inputs(context: RunContext, chosen: Chosen, extracted: ExtractedFeatures, answers: TeacherAnswers) -> SearchInputs:
    return SearchInputs(
        network=context.network,
        extracted=extracted,
        probe=chosen.probe,
        options=context.options,
        precision=context.precision,
        placement=context.placement,
        reporter=context.reporter,
        allows_flips=lambda: context.allows_flips,
        answers=answers,
    )


def _fit(
    context: RunContext, chosen: Chosen, extracted: ExtractedFeatures, answers: TeacherAnswers, taught: Candidate
) -> Probe:
    labels: Tensor = labels_of(context.dataset.splits[TRAIN])
    return fit_taught_probe(
        extracted.features,
        labels,
        answers.lesson(taught.temperature, taught.teacher_weight),
        unlabeled=answers.features(),
        inverse_regularization=chosen.probe.inverse_regularization,
        balanced=context.options.class_weights == "balanced",
    )
