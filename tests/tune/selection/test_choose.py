"""Choosing: candidates are compared on the same held-out images, and the cheapest that nothing beats is taken."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import ttest_rel
from support.runs import SPEC
from support.tuning import FLOAT32, placement_in, small_network
from torch import Tensor

from unfreeze.contract.reporting import Silent
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.data.folds import stratified_folds
from unfreeze.tune.data.views import Views
from unfreeze.tune.evaluation.evaluate import Evaluation
from unfreeze.tune.features.cache import Cached, Streamed
from unfreeze.tune.features.extract import ExtractedFeatures
from unfreeze.tune.linear.probe import fit_probe
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.selection.choose import (
    Choice,
    _needed_lead,
    asked_candidate,
    choice_from,
    choice_state,
    choose,
    earliest_cut,
    is_foreign,
    middle_cut,
    wants_survey,
)
from unfreeze.tune.selection.survey import DepthScore
from unfreeze.tune.selection.trials import Candidate, Contest, Entered, trial_epochs

PROBE = Candidate("probe", "head", 0.0)
LAST_QUARTER = Candidate("last-blocks", "features.9", 5e-4)
OTHER = Candidate("all", "all", 3e-3)


@pytest.fixture(scope="module")
def network() -> Network:
    """A network that learns fast: it has norms."""
    return small_network("mobilenet_v3_small")


def _classes(labels: Tensor, shape: tuple[int, ...], distance: float, seed: int) -> Tensor:
    """Noise around each class's center, [N, 1, ...]."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(3, *shape, generator=generator)
    return (distance * centers[labels] + torch.randn(len(labels), *shape, generator=generator))[:, None]


def _entered(
    network: Network, folder: Path, labels: Tensor, *, features: float, activations: float, **options: object
) -> Entered:
    """Make up what a pass gave: how far classes are apart behind the last block, and at the middle cut."""
    position = network.position(middle_cut(network))
    pooled = _classes(labels, (network.border_shape(len(network.block_names))[0],), features, 1)
    kept = _classes(labels, network.border_shape(position), activations, 2).bfloat16()
    streamed = Streamed(
        network=network,
        position=position,
        images=(),
        recipe=Views(spec=SPEC),
        precision=FLOAT32,
        labels=labels,
    )
    extracted = ExtractedFeatures(
        streamed=streamed,
        kept=Cached(position=position, activations=kept, labels=labels),
        features=pooled,
        surveyed=torch.arange(len(labels)),
        borders={index: _classes(labels, (8,), 3.0, 3) for index in range(1, len(network.block_names) + 1)},
        skipped=(),
    )
    return Entered(
        network=network,
        extracted=extracted,
        probe=fit_probe(pooled, labels),
        options=TuneOptions(**({"epochs": 4, "batch_size": 8} | options)),
        precision=FLOAT32,
        placement=placement_in(folder),
        reporter=Silent(),
        flip=lambda: False,
    )


def _contest(entered: Entered) -> Contest:
    return Contest(entered=entered, folds=stratified_folds(entered.extracted.labels.numpy(), 3, 0))


def _answers(sizes: list[int], seed: int, signal: float = 1.0) -> list[Evaluation]:
    generator = torch.Generator().manual_seed(seed)
    labels = [torch.arange(size) % 3 for size in sizes]
    return [
        Evaluation(
            logits=signal * torch.eye(3)[own] + torch.randn(len(own), 3, generator=generator),
            labels=own,
            images=(),
            skipped=(),
        )
        for own in labels
    ]


def _losses(answers: list[Evaluation]) -> np.ndarray:
    """Log losses at the temperature that makes their mean least, in numpy and scipy alone."""
    logits = np.concatenate([own.logits.double().numpy() for own in answers])
    labels = np.concatenate([own.labels.numpy() for own in answers])

    def losses(log_temperature: float) -> np.ndarray:
        scaled = logits / np.exp(log_temperature)
        return np.logaddexp.reduce(scaled, axis=1) - scaled[np.arange(len(labels)), labels]

    found = minimize_scalar(lambda log: losses(log).mean(), bounds=(-3, 3), method="bounded")
    return losses(found.x)


def _right(answers: list[Evaluation]) -> np.ndarray:
    return np.concatenate([(own.logits.argmax(1) == own.labels).double().numpy() for own in answers])


@pytest.fixture(scope="module")
def entered(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Entered:
    """Sixty images whose classes are far apart in the features, and not in the activations."""
    folder = tmp_path_factory.mktemp("entered")
    return _entered(network, folder, torch.arange(60) % 3, features=1.0, activations=0.0)


def test_a_lead_is_the_larger_paired_difference_in_standard_errors(entered: Entered) -> None:
    """It is scipy's t of the two losses, each at its best temperature, or that of the hits, whichever is larger."""
    contest = _contest(entered)
    contest.answers = {PROBE: _answers([40, 30], 1), OTHER: _answers([40, 30], 2, signal=2.5)}
    one, two = (_losses(contest.answers[each]) for each in (PROBE, OTHER))
    right, more_right = (_right(contest.answers[each]) for each in (PROBE, OTHER))
    of_losses, of_hits = ttest_rel(one, two).statistic, ttest_rel(more_right, right).statistic
    assert contest.lead(OTHER, PROBE) == pytest.approx(max(of_losses, of_hits), rel=1e-2)
    assert contest.lead(PROBE, OTHER) == pytest.approx(max(-of_losses, -of_hits), rel=1e-2)
    assert abs(of_losses - of_hits) > 0.5
    assert min(of_losses, of_hits) > 2
    assert contest.lead(PROBE, PROBE) == 0.0


def test_a_lead_in_hits_alone_is_a_lead(entered: Entered) -> None:
    """A candidate that is right more often is ahead, although it is so unsure that its losses are the larger ones."""
    contest = _contest(entered)
    labels = torch.arange(60) % 3
    surely = 4 * torch.eye(3)[torch.where(torch.arange(60) < 6, (labels + 1) % 3, labels)]
    barely = 1e-3 * torch.eye(3)[labels]
    contest.answers = {
        each: [Evaluation(logits=logits, labels=labels, images=(), skipped=())]
        for each, logits in ((PROBE, surely), (OTHER, barely))
    }
    losses = [_losses(contest.answers[each]) for each in (PROBE, OTHER)]
    assert losses[0].mean() < losses[1].mean()
    assert contest.lead(OTHER, PROBE) == pytest.approx(
        ttest_rel(_right(contest.answers[OTHER]), _right(contest.answers[PROBE])).statistic, rel=1e-6
    )
    assert contest.lead(OTHER, PROBE) > 2


def test_a_lead_does_not_depend_on_how_sure_of_itself_a_candidate_is(entered: Entered) -> None:
    """Logits ten times as large are the same answers: temperatures are fitted before losses are compared."""
    contest = _contest(entered)
    loud = [Evaluation(logits=10 * own.logits, labels=own.labels, images=(), skipped=()) for own in _answers([60], 1)]
    contest.answers = {PROBE: _answers([60], 1), OTHER: loud, LAST_QUARTER: _answers([60], 3)}
    assert contest.lead(OTHER, LAST_QUARTER) == pytest.approx(contest.lead(PROBE, LAST_QUARTER), abs=0.01)


def test_where_classes_are_to_count_the_same_a_rare_one_decides(network: Network, tmp_path: Path) -> None:
    """Of 54 images of one class and 3 of each other, who names the rare ones leads when classes are balanced."""
    labels = torch.tensor([0] * 54 + [1] * 3 + [2] * 3)
    common, rare = 4 * torch.eye(3)[torch.zeros_like(labels)], 4 * torch.eye(3)[labels]
    rare[:9] = 4 * torch.eye(3)[1]
    leads = {}
    for weights in ("none", "balanced"):
        entered = _entered(network, tmp_path / weights, labels, features=1.0, activations=0.0, class_weights=weights)
        contest = _contest(entered)
        contest.answers = {
            each: [Evaluation(logits=logits, labels=labels, images=(), skipped=())]
            for each, logits in ((PROBE, common), (OTHER, rare))
        }
        leads[weights] = contest.lead(OTHER, PROBE)
        gains = (_right(contest.answers[OTHER]) - _right(contest.answers[PROBE])) * (
            np.where(labels == 0, 60 / 3 / 54, 60 / 3 / 3) if weights == "balanced" else 1
        )
        assert contest.gain(OTHER, PROBE) == pytest.approx(gains.sum(), rel=1e-6)
    assert leads["none"] < 0
    assert leads["balanced"] > 1


def test_candidates_are_compared_where_both_were_tried(entered: Entered) -> None:
    """A candidate that stopped after one fold is held against the other's first fold, in losses and in hits."""
    contest = _contest(entered)
    long, short = _answers([40, 30, 30], 1), _answers([40], 2, signal=2.0)
    contest.answers = {PROBE: long, OTHER: short}
    of_losses = ttest_rel(_losses(long[:1]), _losses(short)).statistic
    expected = max(of_losses, ttest_rel(_right(short), _right(long[:1])).statistic)
    assert contest.lead(OTHER, PROBE) == pytest.approx(expected, rel=1e-2)
    right = [int((own.logits.argmax(1) == own.labels).sum()) for own in (short[0], long[0])]
    assert contest.gain(OTHER, PROBE) == right[0] - right[1] == -contest.gain(PROBE, OTHER)
    assert contest.gain(OTHER, PROBE) > 0


@pytest.mark.parametrize(("misses", "settled"), [(0, True), (4, True), (5, False)])
def test_nothing_can_beat_who_misses_next_to_nothing(entered: Entered, misses: int, settled: bool) -> None:  # noqa: FBT001
    """With four misses in all folds or fewer, a candidate is settled."""
    contest = _contest(entered)
    labels = torch.arange(30) % 3
    logits = 5 * torch.eye(3)[torch.where(torch.arange(30) < misses, (labels + 1) % 3, labels)]
    whole = [Evaluation(logits=part, labels=own, images=(), skipped=()) for part, own in
             zip(logits.split(3), labels.split(3), strict=True)]  # fmt: skip
    contest.answers = {PROBE: whole}
    assert contest.is_settled(PROBE) is settled


@pytest.mark.parametrize("recipe", ["probe", "one-vs-rest", "svm"])
def test_linear_candidates_answer_to_every_image_once(recipe: str, entered: Entered) -> None:
    """On each fold's held-out images they give what a probe of that kind, fitted on the others, gives."""
    contest, candidate = _contest(entered), Candidate(recipe, "head", 0.0)
    contest.enter(candidate)
    strength = entered.probe.inverse_regularization if recipe == "probe" else None
    for fold, found in zip(contest.folds, contest.answers[candidate], strict=True):
        features, labels = entered.extracted.features, entered.extracted.labels
        probe = fit_probe(features[fold.train], labels[fold.train], kind=recipe, inverse_regularization=strength)
        x = (features[fold.held_out, 0] - probe.mean) * probe.inverse_std
        torch.testing.assert_close(found.logits, x @ probe.weight.T + probe.bias, rtol=1e-3, atol=1e-4)
        assert torch.equal(found.labels, labels[fold.held_out])
        assert found.link == probe.link
    assert contest.hits(candidate).mean() > 0.9


def test_who_is_behind_after_a_fold_goes_no_further(entered: Entered) -> None:
    """A training on noise is behind the probe at once and is tried on one fold; against nobody, on all."""
    contest = _contest(entered)
    contest.enter(PROBE)
    contest.enter(LAST_QUARTER, against=PROBE)
    folds = {candidate: len(answers) for candidate, answers in contest.answers.items()}
    assert folds == {PROBE: 3, LAST_QUARTER: 1}
    lead = contest.lead(LAST_QUARTER, PROBE)
    assert lead < 0
    before = contest.answers[LAST_QUARTER]
    contest.enter(LAST_QUARTER)
    assert contest.answers[LAST_QUARTER] is before
    again = _contest(entered)
    again.enter(LAST_QUARTER)
    folds = {candidate: len(answers) for candidate, answers in again.answers.items()}
    assert folds == {LAST_QUARTER: 3}


@pytest.mark.parametrize(("images", "folds"), [(60, 3), (297, 3), (300, 2), (597, 2), (600, 1)])
def test_trainings_take_as_many_folds_as_hold_out_enough(entered: Entered, images: int, folds: int) -> None:
    """Folds that hold 200 images out together are enough."""
    contest = Contest(entered=entered, folds=stratified_folds(np.arange(images) % 3, 3, 0))
    found = contest._folds_for_training()
    assert found == folds


def test_a_trial_takes_three_quarters_of_the_epochs() -> None:
    """Rounded up."""
    assert [trial_epochs(epochs) for epochs in (1, 2, 4, 6)] == [1, 2, 3, 5]


def test_who_misses_nothing_is_taken_without_any_training(network: Network, tmp_path: Path) -> None:
    """Where the features tell the classes apart, the probe is settled: no block is trained to know that."""
    labels = torch.arange(60) % 3
    choice = choose(_entered(network, tmp_path, labels, features=3.0, activations=1.0))
    assert choice.candidate == PROBE
    assert {score.recipe for score in choice.scores} <= {"probe", "one-vs-rest", "svm"}
    assert [score.recipe for score in choice.scores if score.chosen] == ["probe"]
    assert "misses too few images" in choice.reason
    assert len(choice.depths) == 13


def test_the_probe_is_taken_where_training_gains_nothing(network: Network, tmp_path: Path) -> None:
    """With activations that tell nothing, a training is tried, and a linear recipe stays."""
    labels = torch.arange(90) % 3
    choice = choose(_entered(network, tmp_path, labels, features=0.12, activations=0.0))
    tried = {score.recipe for score in choice.scores}
    assert "last-blocks" in tried
    assert choice.candidate.recipe in ("probe", "one-vs-rest", "svm")
    assert choice.candidate.cut == "head"
    assert "nothing was clearly ahead of it" in choice.reason


def test_training_is_taken_where_it_gains(tmp_path: Path) -> None:
    """With features that tell nothing and activations that do, blocks are trained; the network itself stays."""
    network = small_network("resnet18")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    labels = torch.arange(60) % 3
    choice = choose(_entered(network, tmp_path, labels, features=0.0, activations=2.0, learning_rate=1e-3))
    assert choice.candidate == Candidate("last-blocks", "layer3", 1e-3)
    scores = {score.recipe: score for score in choice.scores}
    assert scores["last-blocks"].chosen
    assert scores["last-blocks"].accuracy > scores["probe"].accuracy + 0.1
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_a_rate_that_is_not_given_is_one_of_two(network: Network, tmp_path: Path) -> None:
    """For a recipe and cut that are asked for, a gentle and a bold rate are tried, and nothing else."""
    labels = torch.arange(30) % 3
    entered = _entered(network, tmp_path, labels, features=0.5, activations=0.5, cut="features.10", epochs=2)
    choice = choose(entered)
    assert [(score.recipe, score.cut, score.learning_rate) for score in choice.scores] == [
        ("last-blocks", "features.10", 5e-4),
        ("last-blocks", "features.10", 3e-3),
    ]
    assert [score.images for score in choice.scores] == [30, 30]
    assert choice.candidate.cut == "features.10"
    assert choice.depths == ()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, PROBE),
        ({"recipe": "last-blocks"}, Candidate("last-blocks", "features.6", 5e-4)),
        ({"cut": "features.10"}, Candidate("last-blocks", "features.10", 5e-4)),
        ({"recipe": "all", "learning_rate": 1e-2}, Candidate("all", "all", 1e-2)),
        ({"recipe": "all"}, Candidate("all", "all", 5e-4)),
    ],
)
def test_a_class_with_one_image_makes_for_a_careful_choice(
    options: dict[str, object], expected: Candidate, network: Network, tmp_path: Path
) -> None:
    """Where nothing can be held out, what was asked for is done, gently, and the reason says so."""
    labels = torch.tensor([0] * 10 + [1] * 10 + [2])
    choice = choose(_entered(network, tmp_path, labels, features=1.0, activations=1.0, **options))
    assert middle_cut(network) == "features.6"
    assert choice == Choice(
        candidate=expected,
        reason=f"{expected}: a class has too few images to hold any out, so nothing was tried",
    )


def test_a_rare_class_that_was_not_surveyed_leaves_the_depth_to_the_contest(network: Network, tmp_path: Path) -> None:
    """Of thousands of images not all are surveyed: where a class is missing there, its depths say nothing."""
    entered = _entered(network, tmp_path, torch.arange(60) % 3, features=3.0, activations=1.0)
    few = torch.tensor([0, 1, 3, 4])
    extracted = vars(entered.extracted) | {
        "surveyed": few,
        "borders": {position: border[few] for position, border in entered.extracted.borders.items()},
    }
    extracted["surveyed"] = torch.tensor([0, 3, 6, 1])
    choice = choose(Entered(**(vars(entered) | {"extracted": ExtractedFeatures(**extracted)})))
    assert choice.candidate == PROBE
    assert choice.depths == ()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"recipe": "probe"}, PROBE),
        ({"cut": "head"}, PROBE),
        ({"recipe": "svm", "learning_rate": 1e-3}, Candidate("svm", "head", 0.0)),
        ({"recipe": "last-blocks", "cut": "layer4", "learning_rate": 1e-3}, Candidate("last-blocks", "layer4", 1e-3)),
        ({"cut": "layer4", "learning_rate": 1e-3}, Candidate("last-blocks", "layer4", 1e-3)),
        ({"recipe": "all", "learning_rate": 1e-3}, Candidate("all", "all", 1e-3)),
        ({"recipe": "stem-head"}, Candidate("stem-head", "all", 5e-4)),
        ({"recipe": "stem-head", "learning_rate": 1e-3}, Candidate("stem-head", "all", 1e-3)),
        ({"recipe": "scratch"}, Candidate("scratch", "all", 3e-3)),
        ({}, None),
        ({"learning_rate": 1e-3}, None),
        ({"recipe": "last-blocks", "learning_rate": 1e-3}, None),
        ({"recipe": "last-blocks", "cut": "layer4"}, None),
        ({"recipe": "all"}, None),
    ],
)
def test_what_is_named_whole_asks_for_no_choice(options: dict[str, object], expected: Candidate | None) -> None:
    """A linear recipe, or one with its cut and rate, is a candidate; where one of them is missing, there is none."""
    assert asked_candidate(TuneOptions(**options)) == expected


@pytest.mark.parametrize(
    ("options", "survey", "cut"),
    [
        ({}, True, "layer2"),
        ({"recipe": "last-blocks"}, True, "layer2"),
        ({"recipe": "svm"}, False, "head"),
        ({"cut": "layer4"}, False, "layer4"),
        ({"recipe": "stem-head"}, False, "all"),
        ({"recipe": "all"}, False, "all"),
    ],
)
def test_activations_are_kept_where_they_may_be_wanted(options: dict[str, object], survey: bool, cut: str) -> None:  # noqa: FBT001
    """A survey is made where a depth is to be chosen, and then the middle cut is kept; else the one asked for."""
    assert wants_survey(TuneOptions(**options)) is survey
    assert earliest_cut(small_network("resnet18"), TuneOptions(**options)) == cut


def _depth(accuracy: float, standard_error: float = 0.02) -> DepthScore:
    return DepthScore(
        cut="x", accuracy=accuracy, standard_error=standard_error, regularization=1.0, trained_parameters=0
    )


@pytest.mark.parametrize(
    ("accuracies", "foreign"),
    [
        ([0.7, 0.8, 0.9], False),
        ([0.7, 0.91, 0.9], False),
        ([0.7, 0.95, 0.9], False),
        ([0.7, 0.97, 0.9], True),
        ([0.97, 0.7, 0.9], True),
        ([0.3, 0.4, 0.49], True),
        ([0.3, 0.4, 0.51], False),
        ([], False),
    ],
)
def test_images_are_foreign_where_earlier_features_are_worth_more(accuracies: list[float], foreign: bool) -> None:  # noqa: FBT001
    """More than three standard errors more, or where not half of the images are told right from any features."""
    assert is_foreign([_depth(accuracy) for accuracy in accuracies]) is foreign


@pytest.mark.parametrize(("images", "lead"), [(50, 1.0), (300, 1.0), (650, 0.0), (1000, -1.0), (20_000, -1.0)])
def test_the_more_images_the_smaller_a_lead_training_needs(images: int, lead: float) -> None:
    """Over a linear recipe the lead falls from one standard error at 300 images to minus one at 1,000."""
    assert _needed_lead(PROBE, images) == pytest.approx(lead)
    assert _needed_lead(LAST_QUARTER, images) == 1.0


def test_a_choice_is_kept_and_read_again(network: Network, tmp_path: Path) -> None:
    """Through torch's files, read without running what is in them, a choice comes back equal."""
    labels = torch.arange(30) % 3
    entered = _entered(network, tmp_path, labels, features=0.0, activations=1.0, recipe="last-blocks", epochs=1)
    choice = choose(entered)
    assert choice.depths
    file = io.BytesIO()
    torch.save(choice_state(choice), file)
    file.seek(0)
    found = choice_from(torch.load(file, weights_only=True))
    assert isinstance(found.candidate, Candidate)
    assert found == choice
    careful = Choice(candidate=PROBE, reason="why")
    assert choice_from(choice_state(careful)) == careful
