"""A teacher is followed only if its student is better on held-out folds of the training images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.runs import SPEC
from support.tuning import FLOAT32, placement_in, small_network

from unfreeze.contract.reporting import Silent
from unfreeze.tune.data.views import Views
from unfreeze.tune.distillation.lesson import TeacherAnswers
from unfreeze.tune.evaluation.evaluate import Evaluation
from unfreeze.tune.features.activations import Cached, Streamed
from unfreeze.tune.features.extract import ExtractedFeatures
from unfreeze.tune.linear.probe import fit_probe
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.selection.candidate import Candidate
from unfreeze.tune.selection.teaching import (
    TEACHER_WEIGHTS,
    TEMPERATURES,
    Verdict,
    _each_with_the_best_of_the_others,
    judge_teacher,
)
from unfreeze.tune.selection.trials import SearchInputs

PROBE = Candidate.linear("probe")
BLOCKS = Candidate("last-blocks", "layer4", 1e-3)


def _extracted(count: int, seed: int, *, labeled: bool = True) -> tuple[ExtractedFeatures, torch.Tensor]:
    """Overlapping classes at layer4 of a resnet18, and the answers of somebody who knows the centers."""
    network, generator = small_network("resnet18"), torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    position, features = network.position("layer4"), network.head.linear.in_features
    centers = torch.randn(3, features, generator=torch.Generator().manual_seed(99))
    drawn = 0.12 * centers[labels] + torch.randn(count, features, generator=generator)
    answers = (0.12 * drawn @ centers.T - 0.0072 * centers.square().sum(1)).log_softmax(1)
    shape = network.border_shape(position)
    activations = drawn[:, : shape[0], None, None].expand(-1, -1, *shape[1:]).relu()[:, None].bfloat16()
    known = labels if labeled else torch.full_like(labels, -1)
    streamed = Streamed(
        network=network, position=position, images=(), recipe=Views(spec=SPEC), precision=FLOAT32, labels=known
    )
    extracted = ExtractedFeatures(
        streamed=streamed,
        cached=Cached(position=position, activations=activations.contiguous(), labels=known),
        features=drawn[:, None],
        surveyed=torch.empty(0, dtype=torch.int64),
        borders={},
        skipped=(),
    )
    return extracted, answers[:, None]


def _inputs(folder: Path, count: int = 60, unlabeled: int = 120, **options: object) -> SearchInputs:
    extracted, answers = _extracted(count, 1)
    others, more = _extracted(unlabeled, 2, labeled=False)
    return SearchInputs(
        network=extracted.streamed.network,
        extracted=extracted,
        probe=fit_probe(extracted.features, extracted.labels, inverse_regularization=1e-2),
        options=TuneOptions(**({"teacher": "big", "epochs": 2} | options)),
        precision=FLOAT32,
        placement=placement_in(folder),
        reporter=Silent(),
        allows_flips=lambda: False,
        answers=TeacherAnswers(labeled=answers, unlabeled=more, extracted=others),
    )


def _with_random_teacher(inputs: SearchInputs) -> SearchInputs:
    assert inputs.answers is not None
    labeled, unlabeled = (
        (3 * torch.randn(one.shape, generator=torch.Generator().manual_seed(5))).log_softmax(2)
        for one in (inputs.answers.labeled, inputs.answers.unlabeled)
    )
    return replace(inputs, answers=replace(inputs.answers, labeled=labeled, unlabeled=unlabeled))


def test_a_good_teacher_is_followed(tmp_path: Path) -> None:
    """The setting is one of the grid; scores, standard errors and all settings are recorded."""
    verdict = judge_teacher(_inputs(tmp_path), PROBE)
    assert verdict.kept
    assert verdict.candidate == PROBE._replace(
        temperature=verdict.candidate.temperature, teacher_weight=verdict.candidate.teacher_weight
    )
    assert {(one.temperature, one.teacher_weight) for one in verdict.tried} == {
        (temperature, weight) for temperature in TEMPERATURES for weight in TEACHER_WEIGHTS
    }
    best = min(verdict.tried, key=lambda one: one.log_loss)
    assert (best.temperature, best.teacher_weight) == verdict.candidate[3:]
    assert verdict.own is not None
    assert verdict.taught is not None
    assert verdict.taught.accuracy > verdict.own.accuracy
    assert (verdict.own.teacher_weight, verdict.own.images, verdict.taught.images) == (0.0, 60, 60)
    assert 0 < verdict.own.standard_error < 0.1
    assert "beats its own tuning and is kept (cross-validated accuracy: " in verdict.reason
    assert Verdict.from_state(verdict.state()) == verdict


@pytest.mark.parametrize("own", [PROBE, Candidate.linear("svm")])
def test_a_random_teacher_is_not_followed(own: Candidate, tmp_path: Path) -> None:
    """Also if the student alone is a linear recipe that cannot be taught itself."""
    verdict = judge_teacher(_with_random_teacher(_inputs(tmp_path)), own)
    assert not verdict.kept
    assert verdict.candidate.recipe == "probe"
    assert "does not clearly beat its own tuning, which is kept" in verdict.reason
    assert Verdict.from_state(verdict.state()) == verdict


def test_blocks_are_judged_by_short_trainings(tmp_path: Path) -> None:
    """The setting comes from frozen features; both students train their blocks, on the same held-out images."""
    verdict = judge_teacher(_with_random_teacher(_inputs(tmp_path, 30, 30)), BLOCKS)
    assert verdict.candidate[:3] == BLOCKS[:3]
    assert verdict.candidate.is_taught
    assert len(verdict.tried) == len(TEMPERATURES) * len(TEACHER_WEIGHTS)
    assert verdict.own is not None
    assert verdict.taught is not None
    assert verdict.own.images == verdict.taught.images == 30


def test_given_settings_are_not_searched(tmp_path: Path) -> None:
    """With both, nothing else is tried; with one, the other one is chosen."""
    both = judge_teacher(_inputs(tmp_path, temperature=3.0, teacher_weight=0.7), PROBE)
    assert (both.candidate[3:], both.tried) == ((3.0, 0.7), ())
    one = judge_teacher(_inputs(tmp_path, temperature=3.0), PROBE)
    assert [(each.temperature, each.teacher_weight) for each in one.tried] == [
        (3.0, weight) for weight in TEACHER_WEIGHTS
    ]


def test_without_held_out_images_nothing_is_followed(tmp_path: Path) -> None:
    """A class with one image cannot judge a teacher."""
    inputs = _inputs(tmp_path, count=30)
    labels = torch.where(torch.arange(30) == 0, 2, torch.arange(30) % 2)
    streamed = replace(inputs.extracted.streamed, labels=labels)
    verdict = judge_teacher(replace(inputs, extracted=replace(inputs.extracted, streamed=streamed)), PROBE)
    assert (verdict.kept, verdict.own, verdict.taught) == (False, None, None)
    assert "could not be judged" in verdict.reason
    assert Verdict.from_state(verdict.state()) == verdict


def test_each_fold_is_judged_with_the_setting_of_the_others() -> None:
    """A setting that is the best one by a single fold is not used for that fold."""

    def fold(right: float) -> Evaluation:
        labels = torch.arange(6) % 3
        noise = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (6, 3))).float()
        return Evaluation(logits=right * torch.eye(3)[labels] + noise, labels=labels, images=(), skipped=())

    lucky, steady = [fold(9.0), fold(0.0), fold(0.0)], [fold(1.0), fold(1.5), fold(1.5)]
    found = _each_with_the_best_of_the_others([lucky, steady], "accuracy")
    assert found[0] is steady[0]
