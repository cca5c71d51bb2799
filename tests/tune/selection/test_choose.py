"""The search compares candidates on the same held-out images, and chooses the cheapest that none clearly beats."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import ttest_1samp, ttest_rel
from support.runs import SPEC
from support.tuning import FLOAT32, placement_in, small_network
from torch import Tensor

from unfreeze.contract.reporting import Silent
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.data.folds import stratified_folds
from unfreeze.tune.data.views import Views
from unfreeze.tune.evaluation.evaluate import Evaluation
from unfreeze.tune.features.activations import Cached, Streamed
from unfreeze.tune.features.extract import ExtractedFeatures
from unfreeze.tune.linear.probe import fit_probe
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.recipes.registry import linear_recipe
from unfreeze.tune.selection.candidate import Candidate
from unfreeze.tune.selection.choice import Choice, choice_from_state, choice_state
from unfreeze.tune.selection.choose import _required_lead, choose, is_out_of_domain
from unfreeze.tune.selection.request import chooses_cut, earliest_cut, middle_cut, requested_candidate
from unfreeze.tune.selection.survey import DepthScore
from unfreeze.tune.selection.trials import SearchInputs, Trials, trial_epochs

PROBE = Candidate("probe", "head", 0.0)
LAST_QUARTER = Candidate("last-blocks", "features.9", 5e-4)
OTHER = Candidate("all", "all", 3e-3)


@pytest.fixture(scope="module")
def network() -> Network:
    """A network that learns quickly, because it has norms."""
    return small_network("mobilenet_v3_small")


def _classes(labels: Tensor, shape: tuple[int, ...], distance: float, seed: int) -> Tensor:
    """Noise around each class's center, [N, 1, ...]."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(int(labels.max()) + 1, *shape, generator=generator)
    return (distance * centers[labels] + torch.randn(len(labels), *shape, generator=generator))[:, None]


def _inputs(
    network: Network, folder: Path, labels: Tensor, *, features: float, activations: float, **options: object
) -> SearchInputs:
    """Synthesize features and activations whose classes are a given distance apart."""
    position = network.position(middle_cut(network))
    pooled = _classes(labels, (network.border_shape(len(network.block_names))[0],), features, 1)
    cached = _classes(labels, network.border_shape(position), activations, 2).bfloat16()
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
        cached=Cached(position=position, activations=cached, labels=labels),
        features=pooled,
        surveyed=torch.arange(len(labels)),
        borders={index: _classes(labels, (8,), 3.0, 3) for index in range(1, len(network.block_names) + 1)},
        skipped=(),
    )
    return SearchInputs(
        network=network,
        extracted=extracted,
        probe=fit_probe(pooled, labels),
        options=TuneOptions(**({"epochs": 4, "batch_size": 8} | options)),
        precision=FLOAT32,
        placement=placement_in(folder),
        reporter=Silent(),
        allows_flips=lambda: False,
    )


def _trials(inputs: SearchInputs) -> Trials:
    return Trials(inputs=inputs, folds=stratified_folds(inputs.extracted.labels.numpy(), 3, 0))


def _evaluations(sizes: list[int], seed: int, signal: float = 1.0) -> list[Evaluation]:
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
    """Log losses at the best temperature, computed with NumPy and SciPy only."""
    logits = np.concatenate([own.logits.double().numpy() for own in answers])
    labels = np.concatenate([own.labels.numpy() for own in answers])

    def losses(log_temperature: float) -> np.ndarray:
        scaled = logits / np.exp(log_temperature)
        return np.logaddexp.reduce(scaled, axis=1) - scaled[np.arange(len(labels)), labels]

    found = minimize_scalar(lambda log: losses(log).mean(), bounds=(-3, 3), method="bounded")
    return losses(found.x)


def _is_correct(answers: list[Evaluation]) -> np.ndarray:
    return np.concatenate([(own.logits.argmax(1) == own.labels).double().numpy() for own in answers])


@pytest.fixture(scope="module")
def inputs(network: Network, tmp_path_factory: pytest.TempPathFactory) -> SearchInputs:
    """Sixty images whose classes are separable in the features but not in the activations."""
    folder = tmp_path_factory.mktemp("inputs")
    return _inputs(network, folder, torch.arange(60) % 3, features=1.0, activations=0.0)


def test_lead_is_the_larger_paired_difference_in_standard_errors(inputs: SearchInputs) -> None:
    """It equals SciPy's t statistic of the losses at their best temperatures, or of the correct answers."""
    trials = _trials(inputs)
    trials.evaluations = {PROBE: _evaluations([40, 30], 1), OTHER: _evaluations([40, 30], 2, signal=2.5)}
    one, two = (_losses(trials.evaluations[each]) for each in (PROBE, OTHER))
    right, more_right = (_is_correct(trials.evaluations[each]) for each in (PROBE, OTHER))
    of_losses, of_correct = ttest_rel(one, two).statistic, ttest_rel(more_right, right).statistic
    assert trials.lead(OTHER, PROBE) == pytest.approx(max(of_losses, of_correct), rel=1e-2)
    assert trials.lead(PROBE, OTHER) == pytest.approx(max(-of_losses, -of_correct), rel=1e-2)
    assert abs(of_losses - of_correct) > 0.5
    assert min(of_losses, of_correct) > 2
    assert trials.lead(PROBE, PROBE) == 0.0


def test_a_lead_in_accuracy_alone_is_a_lead(inputs: SearchInputs) -> None:
    """A more accurate candidate leads, even if its low confidence makes its losses larger."""
    trials = _trials(inputs)
    labels = torch.arange(60) % 3
    confident = 4 * torch.eye(3)[torch.where(torch.arange(60) < 6, (labels + 1) % 3, labels)]
    uncertain = 1e-3 * torch.eye(3)[labels]
    trials.evaluations = {
        each: [Evaluation(logits=logits, labels=labels, images=(), skipped=())]
        for each, logits in ((PROBE, confident), (OTHER, uncertain))
    }
    losses = [_losses(trials.evaluations[each]) for each in (PROBE, OTHER)]
    assert losses[0].mean() < losses[1].mean()
    assert trials.lead(OTHER, PROBE) == pytest.approx(
        ttest_rel(_is_correct(trials.evaluations[OTHER]), _is_correct(trials.evaluations[PROBE])).statistic, rel=1e-6
    )
    assert trials.lead(OTHER, PROBE) > 2


def test_lead_does_not_depend_on_the_scale_of_the_logits(inputs: SearchInputs) -> None:
    """Temperatures are fitted before losses are compared, so logits ten times as large change nothing."""
    trials = _trials(inputs)
    loud = [
        Evaluation(logits=10 * own.logits, labels=own.labels, images=(), skipped=()) for own in _evaluations([60], 1)
    ]
    trials.evaluations = {PROBE: _evaluations([60], 1), OTHER: loud, LAST_QUARTER: _evaluations([60], 3)}
    assert trials.lead(OTHER, LAST_QUARTER) == pytest.approx(trials.lead(PROBE, LAST_QUARTER), abs=0.01)


def test_the_balanced_metric_gives_a_rare_class_its_weight(network: Network, tmp_path: Path) -> None:
    """With 54 images of one class and 3 of two others, the candidate that finds the rare ones leads if balanced."""
    labels = torch.tensor([0] * 54 + [1] * 3 + [2] * 3)
    common, rare = 4 * torch.eye(3)[torch.zeros_like(labels)], 4 * torch.eye(3)[labels]
    rare[:9] = 4 * torch.eye(3)[1]
    leads = {}
    for metric in ("accuracy", "balanced"):
        inputs = _inputs(network, tmp_path / metric, labels, features=1.0, activations=0.0, metric=metric)
        trials = _trials(inputs)
        trials.evaluations = {
            each: [Evaluation(logits=logits, labels=labels, images=(), skipped=())]
            for each, logits in ((PROBE, common), (OTHER, rare))
        }
        leads[metric] = trials.lead(OTHER, PROBE)
        weights = np.where(labels == 0, 60 / 3 / 54, 60 / 3 / 3) if metric == "balanced" else 1
        losses = (_losses(trials.evaluations[PROBE]) - _losses(trials.evaluations[OTHER])) * weights
        gains = (_is_correct(trials.evaluations[OTHER]) - _is_correct(trials.evaluations[PROBE])) * weights
        of_each = [ttest_1samp(each, 0).statistic for each in (losses, gains)]
        assert leads[metric] == pytest.approx(max(of_each), rel=1e-2)
        assert trials.gain(OTHER, PROBE) == pytest.approx(gains.mean(), rel=1e-6)
    assert leads["accuracy"] < 0
    assert leads["balanced"] > 1


@pytest.mark.parametrize(
    ("metric", "accuracy", "nearly_perfect"), [("accuracy", 58 / 60, True), ("balanced", 7 / 9, False)]
)
def test_errors_on_a_rare_class_are_weighted_by_the_metric(
    metric: str,
    accuracy: float,
    nearly_perfect: bool,  # noqa: FBT001
    network: Network,
    tmp_path: Path,
) -> None:
    """Two errors on a class of three images are few of 60, but a third of the recalls' sum is at stake."""
    labels = torch.tensor([0] * 54 + [1] * 3 + [2] * 3)
    trials = _trials(_inputs(network, tmp_path, labels, features=1.0, activations=0.0, metric=metric))
    predicted = labels.clone()
    predicted[58:] = 0
    whole = [Evaluation(logits=5 * torch.eye(3)[predicted], labels=labels, images=(), skipped=())]
    trials.evaluations = {PROBE: whole}
    assert trials.accuracy(PROBE) == pytest.approx(accuracy)
    assert trials.is_nearly_perfect(PROBE) is nearly_perfect


def test_a_class_that_is_gained_as_a_whole_is_a_lead(network: Network, tmp_path: Path) -> None:
    """All three images of a rare class are gained and nothing else changes: the variance inside of classes is 0."""
    labels = torch.tensor([0] * 54 + [1] * 3 + [2] * 3)
    trials = _trials(_inputs(network, tmp_path, labels, features=1.0, activations=0.0))
    before, after = (5 * torch.eye(3)[torch.where(labels == 2, other, labels)] for other in (0, 2))
    trials.evaluations = {
        each: [Evaluation(logits=logits, labels=labels, images=(), skipped=())]
        for each, logits in ((PROBE, before), (OTHER, after))
    }
    assert trials.inputs.metric == "balanced"  # "auto": 54 images are more than 10 times 3
    assert trials.gain(OTHER, PROBE) == pytest.approx(1 / 3)
    assert trials.lead(OTHER, PROBE) > 1.5


def test_compares_candidates_on_the_folds_of_both(inputs: SearchInputs) -> None:
    """A candidate that was stopped after one fold is compared with the first fold of the other."""
    trials = _trials(inputs)
    long, short = _evaluations([40, 30, 30], 1), _evaluations([40], 2, signal=2.0)
    trials.evaluations = {PROBE: long, OTHER: short}
    of_losses = ttest_rel(_losses(long[:1]), _losses(short)).statistic
    expected = max(of_losses, ttest_rel(_is_correct(short), _is_correct(long[:1])).statistic)
    assert trials.lead(OTHER, PROBE) == pytest.approx(expected, rel=1e-2)
    right = [int((own.logits.argmax(1) == own.labels).sum()) for own in (short[0], long[0])]
    assert trials.gain(OTHER, PROBE) == pytest.approx((right[0] - right[1]) / 40)
    assert trials.gain(PROBE, OTHER) == -trials.gain(OTHER, PROBE)
    assert trials.gain(OTHER, PROBE) > 0


@pytest.mark.parametrize(("errors", "nearly_perfect"), [(0, True), (4, True), (5, False)])
def test_a_candidate_with_few_errors_is_nearly_perfect(inputs: SearchInputs, errors: int, nearly_perfect: bool) -> None:  # noqa: FBT001
    """With four errors or fewer in all folds, no other candidate can be clearly better."""
    trials = _trials(inputs)
    labels = torch.arange(30) % 3
    logits = 5 * torch.eye(3)[torch.where(torch.arange(30) < errors, (labels + 1) % 3, labels)]
    whole = [Evaluation(logits=part, labels=own, images=(), skipped=()) for part, own in
             zip(logits.split(3), labels.split(3), strict=True)]  # fmt: skip
    trials.evaluations = {PROBE: whole}
    assert trials.is_nearly_perfect(PROBE) is nearly_perfect


@pytest.mark.parametrize("recipe", ["probe", "one-vs-rest", "svm"])
def test_linear_candidates_classify_every_image_once(recipe: str, inputs: SearchInputs) -> None:
    """The held-out images of a fold are classified by a probe that is fitted on the others."""
    trials, candidate = _trials(inputs), Candidate(recipe, "head", 0.0)
    trials.run(candidate)
    strength = inputs.probe.inverse_regularization if recipe == "probe" else None
    for fold, found in zip(trials.folds, trials.evaluations[candidate], strict=True):
        features, labels = inputs.extracted.features, inputs.extracted.labels
        probe = fit_probe(
            features[fold.train], labels[fold.train], recipe=linear_recipe(recipe), inverse_regularization=strength
        )
        x = (features[fold.held_out, 0] - probe.mean) * probe.inverse_std
        torch.testing.assert_close(found.logits, x @ probe.weight.T + probe.bias, rtol=1e-3, atol=1e-4)
        assert torch.equal(found.labels, labels[fold.held_out])
        assert found.link == probe.link
    assert trials.correct(candidate).mean() > 0.9


def test_stops_a_candidate_that_is_behind_after_a_fold(inputs: SearchInputs) -> None:
    """Training on noise is tried on one fold against the probe, and on all folds without an incumbent."""
    trials = _trials(inputs)
    trials.run(PROBE)
    trials.run(LAST_QUARTER, incumbent=PROBE)
    folds = {candidate: len(answers) for candidate, answers in trials.evaluations.items()}
    assert folds == {PROBE: 3, LAST_QUARTER: 1}
    lead = trials.lead(LAST_QUARTER, PROBE)
    assert lead < 0
    before = trials.evaluations[LAST_QUARTER]
    trials.run(LAST_QUARTER)
    assert trials.evaluations[LAST_QUARTER] is before
    again = _trials(inputs)
    again.run(LAST_QUARTER)
    folds = {candidate: len(answers) for candidate, answers in again.evaluations.items()}
    assert folds == {LAST_QUARTER: 3}


@pytest.mark.parametrize(("images", "folds"), [(60, 3), (279, 3), (291, 2), (564, 2), (597, 1)])
def test_training_uses_as_many_folds_as_hold_out_enough(inputs: SearchInputs, images: int, folds: int) -> None:
    """Folds that hold out 190 images together are enough, as one of 597 images does."""
    trials = Trials(inputs=inputs, folds=stratified_folds(np.arange(images) % 3, 3, 0))
    found = trials._training_folds()
    assert found == folds


def test_a_trial_trains_for_three_quarters_of_the_epochs() -> None:
    """Rounded up."""
    assert [trial_epochs(epochs) for epochs in (1, 2, 4, 6)] == [1, 2, 3, 5]


def test_chooses_a_nearly_perfect_probe_without_training(network: Network, tmp_path: Path) -> None:
    """If the features separate the classes, no block is trained in a trial."""
    labels = torch.arange(60) % 3
    choice = choose(_inputs(network, tmp_path, labels, features=3.0, activations=1.0))
    assert choice.candidate == PROBE
    assert {score.recipe for score in choice.scores} <= {"probe", "one-vs-rest", "svm"}
    assert [score.recipe for score in choice.scores if score.chosen] == ["probe"]
    assert "misclassifies too few images" in choice.reason
    assert len(choice.depths) == 13


def test_chooses_a_linear_recipe_if_training_does_not_help(network: Network, tmp_path: Path) -> None:
    """With uninformative activations, a training is tried, and a linear recipe is chosen."""
    labels = torch.arange(90) % 3
    choice = choose(_inputs(network, tmp_path, labels, features=0.12, activations=0.0))
    tried = {score.recipe for score in choice.scores}
    assert "last-blocks" in tried
    assert choice.candidate.recipe in ("probe", "one-vs-rest", "svm")
    assert choice.candidate.cut == "head"
    assert "no candidate was clearly better" in choice.reason


def test_chooses_training_if_it_helps(tmp_path: Path) -> None:
    """With informative activations but uninformative features, blocks are trained; the network is not changed."""
    network = small_network("resnet18")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    labels = torch.arange(60) % 3
    choice = choose(_inputs(network, tmp_path, labels, features=0.0, activations=2.0, learning_rate=1e-3))
    assert choice.candidate == Candidate("last-blocks", "layer3", 1e-3)
    scores = {score.recipe: score for score in choice.scores}
    assert scores["last-blocks"].chosen
    assert scores["last-blocks"].accuracy > scores["probe"].accuracy + 0.1
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize(("metric", "recipe"), [("accuracy", "probe"), ("auto", "last-blocks")])
def test_the_metric_decides_between_common_and_rare_classes(metric: str, recipe: str, tmp_path: Path) -> None:
    """Features separate two large classes, activations three small ones: accuracy and the mean recall disagree."""
    network = small_network("resnet18", classes=5)
    labels = torch.repeat_interleave(torch.arange(5), torch.tensor([44, 44, 4, 4, 4]))
    by_common, by_rare = (torch.tensor(centers)[labels] for centers in ([0, 1, 0, 0, 0], [0, 0, 1, 2, 3]))
    options = {"metric": metric, "learning_rate": 1e-3}
    of_features = _inputs(network, tmp_path, by_common, features=0.3, activations=0.0, **options)
    of_activations = _inputs(network, tmp_path, by_rare, features=0.0, activations=2.0, **options)
    extracted = vars(of_activations.extracted) | {
        "features": of_features.extracted.features,
        "streamed": dataclasses.replace(of_activations.extracted.streamed, labels=labels),
        "cached": dataclasses.replace(of_activations.extracted.cached, labels=labels),
    }
    probe = fit_probe(extracted["features"], labels)
    choice = choose(
        SearchInputs(**(vars(of_activations) | {"extracted": ExtractedFeatures(**extracted), "probe": probe}))
    )
    assert choice.candidate.recipe == recipe
    scores = {score.recipe: score for score in choice.scores}
    assert scores["probe"].accuracy > scores["last-blocks"].accuracy + 0.1
    assert scores["probe"].balanced_accuracy < scores["last-blocks"].balanced_accuracy - 0.1
    assert ("cross-validated balanced accuracy:" in choice.reason) == (metric == "auto")


def test_compares_two_learning_rates_for_a_requested_cut(network: Network, tmp_path: Path) -> None:
    """A gentle and a bold learning rate are tried, and nothing else."""
    labels = torch.arange(30) % 3
    inputs = _inputs(network, tmp_path, labels, features=0.5, activations=0.5, cut="features.10", epochs=2)
    choice = choose(inputs)
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
def test_does_not_search_if_a_class_has_one_image(
    options: dict[str, object], expected: Candidate, network: Network, tmp_path: Path
) -> None:
    """The requested recipe is used with the gentlest learning rate, and the reason says why."""
    labels = torch.tensor([0] * 10 + [1] * 10 + [2])
    choice = choose(_inputs(network, tmp_path, labels, features=1.0, activations=1.0, **options))
    assert middle_cut(network) == "features.6"
    assert choice == Choice(
        candidate=expected,
        reason=f"{expected}: a class has too few images to hold any out, so no candidates were compared",
    )


def test_searches_without_a_survey_if_a_class_was_not_surveyed(network: Network, tmp_path: Path) -> None:
    """Not all of thousands of images are surveyed; if a rare class is missing there, there are no depths."""
    inputs = _inputs(network, tmp_path, torch.arange(60) % 3, features=3.0, activations=1.0)
    few = torch.tensor([0, 1, 3, 4])
    extracted = vars(inputs.extracted) | {
        "surveyed": few,
        "borders": {position: border[few] for position, border in inputs.extracted.borders.items()},
    }
    extracted["surveyed"] = torch.tensor([0, 3, 6, 1])
    choice = choose(SearchInputs(**(vars(inputs) | {"extracted": ExtractedFeatures(**extracted)})))
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
        ({"recipe": "lora"}, Candidate("lora", "all", 3e-3)),
        ({"recipe": "lora", "cut": "layer3"}, Candidate("lora", "layer3", 3e-3)),
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
def test_complete_options_name_a_candidate(options: dict[str, object], expected: Candidate | None) -> None:
    """A linear recipe, or one with its cut and learning rate, is a candidate; otherwise there is none."""
    assert requested_candidate(TuneOptions(**options)) == expected


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
def test_caches_activations_at_the_earliest_cut_that_may_be_needed(
    options: dict[str, object],
    survey: bool,  # noqa: FBT001
    cut: str,
) -> None:
    """It is the middle cut if a cut has to be chosen, and the requested one otherwise."""
    assert chooses_cut(TuneOptions(**options)) is survey
    assert earliest_cut(small_network("resnet18"), TuneOptions(**options)) == cut


def _depth(accuracy: float, balanced: float = 0.9) -> DepthScore:
    return DepthScore(
        cut="x",
        accuracy=accuracy,
        standard_error=0.02,
        balanced_accuracy=balanced,
        balanced_standard_error=0.04,
        regularization=1.0,
        trained_parameters=0,
    )


@pytest.mark.parametrize(
    ("accuracies", "out_of_domain"),
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
def test_images_are_out_of_domain_if_earlier_features_are_better(accuracies: list[float], out_of_domain: bool) -> None:  # noqa: FBT001
    """By more than three standard errors, or if no features classify half of the images correctly."""
    assert is_out_of_domain([_depth(accuracy) for accuracy in accuracies]) is out_of_domain


@pytest.mark.parametrize(
    ("balanced", "out_of_domain"), [([0.97, 0.86], False), ([0.99, 0.86], True), ([0.4, 0.49], False)]
)
def test_out_of_domain_follows_the_metric(balanced: list[float], out_of_domain: bool) -> None:  # noqa: FBT001
    """Balanced accuracies are compared with their own standard error; low ones alone only mean rare classes."""
    depths = [_depth(0.9, each) for each in balanced]
    assert is_out_of_domain(depths, "balanced") is out_of_domain
    assert not is_out_of_domain(depths)


@pytest.mark.parametrize(("images", "lead"), [(50, 1.0), (300, 1.0), (650, 0.0), (1000, -1.0), (20_000, -1.0)])
def test_training_needs_a_smaller_lead_with_more_images(images: int, lead: float) -> None:
    """Over a linear recipe the lead falls from one standard error at 300 images to minus one at 1,000."""
    assert _required_lead(PROBE, images) == pytest.approx(lead)
    assert _required_lead(LAST_QUARTER, images) == 1.0


def test_a_choice_survives_saving_and_loading(network: Network, tmp_path: Path) -> None:
    """A choice is equal after `torch.save` and `torch.load(weights_only=True)`."""
    labels = torch.arange(30) % 3
    inputs = _inputs(network, tmp_path, labels, features=0.0, activations=1.0, recipe="last-blocks", epochs=1)
    choice = choose(inputs)
    assert choice.depths
    file = io.BytesIO()
    torch.save(choice_state(choice), file)
    file.seek(0)
    found = choice_from_state(torch.load(file, weights_only=True))
    assert isinstance(found.candidate, Candidate)
    assert found == choice
    minimal = Choice(candidate=PROBE, reason="why")
    assert choice_from_state(choice_state(minimal)) == minimal
