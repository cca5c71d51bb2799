"""What a student trains on besides labels: a teacher's answers, how soft they are, and how much they count."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from unfreeze.tune.features.extract import ExtractedFeatures


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A teacher's answers for N images in V views.

    Args:
        answers: logarithms of the teacher's probabilities, float32 [N, V, C].
        temperature: that the logarithms, and the student's logits, are divided by; above 0.
        weight: of the answers in the loss, 0 to 1; the labels have the rest.
    """

    answers: Tensor
    temperature: float
    weight: float

    def at(self, rows: Tensor, views: Tensor) -> Tensor:
        """Return the answers for a batch: for the images `rows`, each in its view, [n, C]."""
        return self.answers[rows, views]

    def losses(self, logits: Tensor, answers: Tensor) -> Tensor:
        """Return T² times the Kullback-Leibler divergence of the student from the teacher, both at temperature T.

        The factor keeps the size of the gradients at every temperature (Hinton et al. 2015, arXiv:1503.02531).

        Args:
            logits: of the student, float32 [n, C].
            answers: of the teacher, [n, C].

        Returns:
            One loss for each image, float32 [n], without the weight.
        """
        student = (logits / self.temperature).log_softmax(1)
        teacher = (answers / self.temperature).log_softmax(1)
        divergence = nn.functional.kl_div(student, teacher, reduction="none", log_target=True).sum(1)
        return self.temperature**2 * divergence


@dataclass(frozen=True, kw_only=True)
class LabelLoss:
    """The loss of labels.

    Args:
        class_weights: float32 [C]; None for equal ones.
        smoothing: probability that is spread over all classes, 0 to 1.
    """

    class_weights: Tensor | None
    smoothing: float

    def total(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the sum of the cross-entropies of a batch."""
        return nn.functional.cross_entropy(
            logits, labels, self.class_weights, label_smoothing=self.smoothing, reduction="sum"
        )

    def total_taught(self, logits: Tensor, labels: Tensor, lesson: Lesson, answers: Tensor) -> Tensor:
        """Return the sum of the cross-entropies and of the losses of a lesson, mixed by its weight.

        Args:
            logits: of the student, float32 [n, C].
            labels: int64 [n]; negative for images without one, for which only the teacher's answers count.
            lesson: has the temperature and the weight.
            answers: of the teacher for the batch, [n, C].
        """
        labeled = labels >= 0
        soft = lesson.losses(logits, answers)
        if self.class_weights is not None:
            soft = soft * torch.where(labeled, self.class_weights[labels.clamp(min=0)], 1)
        hard = self.total(logits[labeled], labels[labeled])
        return (1 - lesson.weight) * hard + lesson.weight * soft.sum()


@dataclass(frozen=True, kw_only=True)
class TeacherAnswers:
    """What a teacher has answered about the training images, and about images without a label.

    Args:
        labeled: logarithms of probabilities for the training images, float32 [N, V, C].
        unlabeled: the same for the images without a label, [M, V, C].
        extracted: features and activations of the images without a label; None if there are none.
    """

    labeled: Tensor
    unlabeled: Tensor
    extracted: ExtractedFeatures | None

    def lesson(
        self, temperature: float, weight: float, rows: np.ndarray | None = None, unlabeled: np.ndarray | None = None
    ) -> Lesson:
        """Return the answers for training images, followed by those for images without a label.

        Args:
            temperature: of the lesson.
            weight: of the answers in the loss.
            rows: numbers of the training images; all by default.
            unlabeled: numbers of the images without a label; all by default.
        """
        answers = torch.cat([_taken(self.labeled, rows), _taken(self.unlabeled, unlabeled)])
        return Lesson(answers=answers, temperature=temperature, weight=weight)

    def features(self, rows: np.ndarray | None = None) -> Tensor | None:
        """Return the features of images without a label, float32 [m, V, F]; None if there are none."""
        return None if self.extracted is None else _taken(self.extracted.features, rows)


def _taken(values: Tensor, rows: np.ndarray | None) -> Tensor:
    return values if rows is None else values[torch.from_numpy(rows)]
