"""Logistic regression with a teacher: its gradient, and its optimum against other solvers."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import approx_fprime
from torch import nn

from unfreeze.tune.distillation.lesson import LabelLoss, Lesson
from unfreeze.tune.linear.probe import Probe, fit_probe
from unfreeze.tune.linear.taught import TaughtRows, fit_taught_probe, taught_objective

FEATURES, STRENGTH = 5, 0.1


def _images(classes: int = 3, count: int = 60, views: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    centers = torch.randn(classes, FEATURES, generator=torch.Generator().manual_seed(9))
    features = centers[labels][:, None] + 2 * torch.randn(count, views, FEATURES, generator=generator)
    return features, labels


def _answers(count: int, classes: int = 3, views: int = 2) -> torch.Tensor:
    return (2 * torch.randn(count, views, classes, generator=torch.Generator().manual_seed(4))).log_softmax(2)


@pytest.mark.parametrize(("temperature", "weight"), [(1.0, 0.0), (1.0, 1.0), (3.0, 0.6)])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_gradient_is_that_of_differences(classes: int, temperature: float, weight: float) -> None:
    """In float64, with weights of images, and with images without labels."""
    rng = np.random.default_rng(0)
    answers = _answers(9, classes, 1)[:, 0].numpy().astype(np.float64)
    rows = TaughtRows(
        x=rng.normal(size=(9, FEATURES)),
        answers=answers,
        labels=np.arange(6) % classes,
        weights=rng.uniform(0.5, 2, 9),
    )
    point = rng.normal(size=classes * (FEATURES + 1))
    arguments = rows, temperature, weight, 0.3
    expected = approx_fprime(point, lambda flat: taught_objective(flat, *arguments)[0], 1e-7)
    assert taught_objective(point, *arguments)[1] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("balanced", [{}, {"balanced": True}])
def test_without_weight_it_is_the_probe(classes: int, balanced: dict[str, bool]) -> None:
    """The optimum is that of scikit-learn's solver, also for two classes and with balanced weights."""
    features, labels = _images(classes, count=61)
    probe = fit_probe(features, labels, inverse_regularization=STRENGTH, **balanced)
    lesson = Lesson(answers=_answers(61, classes), temperature=2.0, weight=0.0)
    taught = fit_taught_probe(features, labels, lesson, inverse_regularization=STRENGTH, **balanced)
    difference = probe.classify(features).log_softmax(-1) - taught.classify(features).log_softmax(-1)
    assert difference.abs().max() < 2e-3
    assert torch.equal(probe.mean, taught.mean)


@pytest.mark.parametrize(("temperature", "weight"), [(1.0, 1.0), (2.0, 0.5), (4.0, 0.9)])
def test_the_optimum_is_that_of_torch_on_the_training_loss(temperature: float, weight: float) -> None:
    """L-BFGS of torch on the loss of training, plus half the squared norm over the strength, finds the same answers."""
    features, labels = _images()
    unlabeled, _ = _images(count=30, seed=1)
    lesson = Lesson(answers=_answers(90), temperature=temperature, weight=weight)
    taught = fit_taught_probe(features, labels, lesson, unlabeled=unlabeled, inverse_regularization=STRENGTH)
    x = ((torch.cat([features, unlabeled]) - taught.mean) * taught.inverse_std).flatten(0, 1).double()
    targets = torch.cat([labels, torch.full((30,), -1)]).repeat_interleave(2)
    linear = nn.Linear(FEATURES, 3, dtype=torch.float64)
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=500, line_search_fn="strong_wolfe", tolerance_grad=1e-9)
    answers = lesson.answers.flatten(0, 1).double()

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = LabelLoss(class_weights=None, smoothing=0.0).total_taught(linear(x), targets, lesson, answers)
        total = STRENGTH / 2 * loss + linear.weight.square().sum() / 2
        total.backward()
        return total

    optimizer.step(closure)
    expected, found = linear(x).log_softmax(1).detach(), taught.classify(torch.cat([features, unlabeled]))
    assert (found.flatten(0, 1).log_softmax(1) - expected).abs().max() < 5e-3


def test_a_good_teacher_makes_a_better_probe() -> None:
    """Trained on 12 labels and the answers of a teacher that knows 3,000, it classifies other images better."""
    features, labels = _images(count=3000, views=1, seed=3)
    teacher = fit_probe(features, labels, inverse_regularization=1.0)
    few, known = _images(count=12, views=1, seed=5)
    unlabeled, _ = _images(count=300, views=1, seed=6)
    answers = teacher.classify(torch.cat([few, unlabeled])).log_softmax(2)
    alone = fit_probe(few, known, inverse_regularization=STRENGTH)
    options: dict[str, Any] = {"unlabeled": unlabeled, "inverse_regularization": STRENGTH}
    taught = fit_taught_probe(few, known, Lesson(answers=answers, temperature=2.0, weight=0.9), **options)

    def accuracy(probe: Probe) -> float:
        return float((probe.classify(features[:, 0]).argmax(1) == labels).float().mean())

    assert accuracy(taught) > accuracy(alone) + 0.05
    assert accuracy(taught) > accuracy(teacher) - 0.02
