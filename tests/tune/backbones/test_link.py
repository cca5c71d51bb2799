"""Links: how logits become probabilities, their negative log-likelihood, and calibration."""

import numpy as np
import pytest
import torch
from scipy.special import expit

from unfreeze.tune.backbones.link import negative_log_likelihoods, probabilities
from unfreeze.tune.evaluation.evaluate import Evaluation, fit_temperature

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [-3.0, -2.0, -4.0]])


def _expected(logits: np.ndarray, link: str) -> np.ndarray:
    weights = np.exp(logits) if link == "softmax" else expit(logits)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
def test_probabilities_are_weights_divided_by_their_sum(link: str) -> None:
    """Exponentials or sigmoids of the logits over the temperature, divided by their sum."""
    expected = _expected(LOGITS.numpy() / 1.7, link)
    np.testing.assert_allclose(probabilities(LOGITS, link, 1.7), expected, atol=1e-6)
    assert np.abs(expected - _expected(LOGITS.numpy() / 1.7, "sigmoid" if link == "softmax" else "softmax")).max() > 0.1


@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
def test_negative_log_likelihood_of_the_true_label(link: str) -> None:
    """It is -log p of each true label; an evaluation averages it."""
    labels = torch.tensor([1, 2])
    expected = -np.log(_expected(LOGITS.numpy() / 0.5, link)[[0, 1], [1, 2]])
    np.testing.assert_allclose(negative_log_likelihoods(LOGITS, labels, link, 0.5), expected, rtol=1e-5)
    evaluation = Evaluation(logits=LOGITS, labels=labels, images=(), skipped=(), link=link)
    assert evaluation.negative_log_likelihood(0.5) == pytest.approx(expected.mean(), rel=1e-5)
    np.testing.assert_allclose(evaluation.probabilities(0.5), _expected(LOGITS.numpy() / 0.5, link), atol=1e-6)


@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
def test_logits_of_any_size_stay_finite(link: str) -> None:
    """Where every sigmoid underflows in float32, probabilities still sum to 1."""
    logits = torch.tensor([[-300.0, -200.0], [-1e4, -1e4], [1e4, -1e4]])
    found = probabilities(logits, link)
    np.testing.assert_allclose(found, [[0, 1], [0.5, 0.5], [1, 0]], atol=1e-6)
    likelihoods = negative_log_likelihoods(logits, torch.tensor([0, 0, 0]), link)
    np.testing.assert_allclose(likelihoods, [100, np.log(2), 0], rtol=1e-5)


def test_temperature_undoes_overconfidence_of_sigmoids() -> None:
    """Logits twice too large get a temperature near two with the sigmoid link."""
    rng = np.random.default_rng(2)
    calibrated = torch.from_numpy(rng.normal(-2, 2, (4000, 5))).float()
    labels = torch.distributions.Categorical(probs=probabilities(calibrated, "sigmoid")).sample()
    for factor in (0.5, 1.0, 2.0):
        evaluation = Evaluation(logits=calibrated * factor, labels=labels, images=(), skipped=(), link="sigmoid")
        assert fit_temperature(evaluation) == pytest.approx(factor, rel=0.15)
