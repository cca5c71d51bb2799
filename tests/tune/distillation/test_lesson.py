"""The loss of a taught student: that of Hinton, Vinyals and Dean 2015, with labels where there are any."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from unfreeze.tune.distillation.lesson import LabelLoss, Lesson, TeacherAnswers


def _lesson(temperature: float, weight: float = 0.5) -> Lesson:
    return Lesson(answers=torch.empty(0, 1, 2), temperature=temperature, weight=weight)


def _logits(seed: int, count: int = 6, classes: int = 4) -> torch.Tensor:
    return 3 * torch.randn(count, classes, generator=torch.Generator().manual_seed(seed))


def test_the_divergence_is_that_of_a_computation_by_hand() -> None:
    """At temperature 2, a teacher of 0.8 and 0.2 becomes 2/3 and 1/3; the student is undecided; times 2²."""
    answers = torch.tensor([[0.8, 0.2]]).log()
    student = torch.tensor([[7.0, 7.0]])
    expected = 4 * (2 / 3 * math.log(2 / 3 / 0.5) + 1 / 3 * math.log(1 / 3 / 0.5))
    assert float(_lesson(2.0).losses(student, answers)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.5, 10.0])
def test_the_divergence_is_torchs_own(temperature: float) -> None:
    """`nn.KLDivLoss` of the softened distributions, summed over the images, times T²."""
    student, teacher = _logits(0), _logits(1)
    divergence = nn.KLDivLoss(reduction="sum")
    expected = divergence((student / temperature).log_softmax(1), (teacher / temperature).softmax(1))
    found = _lesson(temperature).losses(student, teacher.log_softmax(1)).sum()
    assert float(found) == pytest.approx(temperature**2 * float(expected), rel=1e-4)


def test_gradients_keep_their_size_at_high_temperatures() -> None:
    """T² makes the gradient approach the difference of centered logits over the number of classes."""
    student, teacher = _logits(0).requires_grad_(), _logits(1)
    _lesson(1000.0).losses(student, teacher.log_softmax(1)).sum().backward()
    difference = student.detach() - teacher
    expected = (difference - difference.mean(1, keepdim=True)) / 4
    assert student.grad is not None
    assert torch.allclose(student.grad, expected, atol=0.02)


def test_a_student_that_equals_its_teacher_has_no_loss() -> None:
    """Logits are compared up to a constant."""
    teacher = _logits(1)
    assert _lesson(3.0).losses(teacher + 5, teacher.log_softmax(1)).abs().max() < 1e-5


@pytest.mark.parametrize("class_weights", [None, [0.5, 1.0, 2.0, 3.0]])
def test_the_total_mixes_labels_and_answers(class_weights: list[float] | None) -> None:
    """Images without a label count with the answers alone; class weights apply to both losses of a labeled image."""
    student, answers, labels = _logits(0), _logits(1).log_softmax(1), torch.tensor([0, 3, -1, 1, -1, 0])
    weights = None if class_weights is None else torch.tensor(class_weights)
    lesson = _lesson(2.0, weight=0.7)
    loss = LabelLoss(class_weights=weights, smoothing=0.1)
    found = loss.total_taught(student, labels, lesson, answers)
    expected = 0.0
    for logits, answer, label in zip(student, answers, labels.tolist(), strict=True):
        own = 1.0 if weights is None or label < 0 else float(weights[label])
        expected += 0.7 * own * float(lesson.losses(logits[None], answer[None]))
        if label >= 0:
            expected += 0.3 * float(loss.total(logits[None], torch.tensor([label])))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_labels_has_a_gradient() -> None:
    """Its cross-entropy is 0, not NaN."""
    student = _logits(0).requires_grad_()
    loss = LabelLoss(class_weights=None, smoothing=0.1)
    total = loss.total_taught(student, torch.full((6,), -1), _lesson(1.0), _logits(1).log_softmax(1))
    total.backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() > 0


def test_a_lesson_has_the_answers_in_the_order_of_the_images() -> None:
    """Those for the chosen training images come first, then those for images without a label, each in its view."""
    labeled = torch.arange(4 * 2 * 3).float().reshape(4, 2, 3)
    answers = TeacherAnswers(labeled=labeled, unlabeled=-labeled[:2], extracted=None)
    lesson = answers.lesson(2.0, 0.5, np.array([3, 1]))
    assert torch.equal(
        lesson.at(torch.tensor([0, 3, 1]), torch.tensor([1, 0, 0])),
        torch.stack([labeled[3, 1], -labeled[1, 0], labeled[1, 0]]),
    )
    assert answers.lesson(2.0, 0.5, None, np.array([1])).answers.shape == (5, 2, 3)
    assert answers.features() is None
