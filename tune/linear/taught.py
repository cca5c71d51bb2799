"""Multinomial logistic regression on labels and on a teacher's answers."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from threadpoolctl import threadpool_limits
from torch import Tensor

from unfreeze.contract.arrays import Float, Float32, Float64, Int64
from unfreeze.tune.backbones.link import SOFTMAX
from unfreeze.tune.distillation.lesson import Lesson
from unfreeze.tune.linear.probe import Probe

_ITERATIONS, _TOLERANCE = 300, 1e-5
_REDUCTION = 64 * np.finfo(np.float64).eps


@dataclass(frozen=True, kw_only=True)
class TaughtRows:
    """Rows of standardized features with labels and answers.

    Args:
        x: features, [n, F].
        answers: logarithms of the teacher's probabilities, [n, C].
        labels: of the first rows, int64 [m]; the others have none.
        weights: of all rows, float64 [n].
    """

    x: Float[np.ndarray, "n f"]
    answers: Float[np.ndarray, "n c"]
    labels: Int64[np.ndarray, " m"]
    weights: Float64[np.ndarray, " n"]


def taught_objective(
    flat: np.ndarray, rows: TaughtRows, temperature: float, weight: float, inverse_regularization: float
) -> tuple[float, np.ndarray]:
    """Return the objective of logistic regression with a teacher, divided by all weights, and its gradient.

    It is (1 - weight) times the cross-entropy of the labels, plus weight T² times the Kullback-Leibler divergence from
    the teacher at temperature T (Hinton et al. 2015, arXiv:1503.02531), times the inverse regularization, plus half the
    squared norm of the weights.

    Args:
        flat: weights and bias of every class, one class after the other, [C (F + 1)].
        rows: the features, labels and answers.
        temperature: T.
        weight: of the answers, 0 to 1.
        inverse_regularization: as in scikit-learn, where two classes have one vector of weights.
    """
    classes, labeled = rows.answers.shape[1], len(rows.labels)
    parameters = flat.reshape(classes, -1)
    cast = parameters.astype(rows.x.dtype)
    logits = (rows.x @ cast[:, :-1].T + cast[:, -1]).astype(np.float64)
    total = rows.weights.sum()
    shares = (rows.weights / total)[:, None]
    student, teacher = log_softmax(logits / temperature, axis=1), log_softmax(rows.answers / temperature, axis=1)
    divergence = (np.exp(teacher) * (teacher - student)).sum(1, keepdims=True)
    slope = weight * temperature * shares * (np.exp(student) - np.exp(teacher))
    loss = weight * temperature**2 * float((shares * divergence).sum())
    own, targets = log_softmax(logits[:labeled], axis=1), np.eye(classes)[rows.labels]
    loss -= (1 - weight) * float((shares[:labeled] * targets * own).sum())
    slope[:labeled] += (1 - weight) * shares[:labeled] * (np.exp(own) - targets)
    decay = np.full(parameters.shape[1], (2 if classes == 2 else 1) / (inverse_regularization * total))  # noqa: PLR2004
    decay[-1] = 0
    weighted = slope.astype(rows.x.dtype)
    gradient = np.concatenate([weighted.T @ rows.x, slope.sum(0)[:, None]], axis=1) + decay * parameters
    return loss + float((decay * parameters**2).sum()) / 2, gradient.ravel()


def fit_taught_probe(
    features: Float32[Tensor, "n v f"],
    labels: Int64[Tensor, " n"],
    lesson: Lesson,
    *,
    unlabeled: Float32[Tensor, "m v f"] | None = None,
    inverse_regularization: float,
    balanced: bool = False,
) -> Probe:
    """Fit a probe to labels and to the answers of a teacher.

    Args:
        features: of all views of the labeled images.
        labels: of them.
        lesson: has the answers for them and, after these, for the images without a label.
        unlabeled: features of the images without a label.
        inverse_regularization: that was chosen for the labels alone.
        balanced: give every class the same total weight; images without a label have weight 1.

    Returns:
        The probe, on features that are standardized over the labeled images, as that without a teacher.
    """
    views, y = features.shape[1], labels.numpy()
    scaler = StandardScaler().fit(features.flatten(0, 1).numpy())
    both = features if unlabeled is None else torch.cat([features, unlabeled])
    weights = np.ones(len(both))
    weights[: len(y)] = compute_sample_weight("balanced" if balanced else None, y)
    rows = TaughtRows(
        x=scaler.transform(both.flatten(0, 1).numpy()),
        answers=lesson.answers.flatten(0, 1).numpy(),
        labels=y.repeat(views),
        weights=weights.repeat(views),
    )
    classes, limits = rows.answers.shape[1], {"maxiter": _ITERATIONS, "gtol": _TOLERANCE, "ftol": _REDUCTION}
    arguments = rows, lesson.temperature, lesson.weight, inverse_regularization / views
    start = np.zeros(classes * (rows.x.shape[1] + 1))
    with threadpool_limits(1):
        found = minimize(taught_objective, start, arguments, jac=True, method="L-BFGS-B", options=limits).x
    solution = torch.from_numpy(found.reshape(classes, -1)).float()
    return Probe(
        mean=torch.from_numpy(scaler.mean_).float(),
        inverse_std=torch.from_numpy((scaler.var_ > 0) / scaler.scale_).float(),
        weight=solution[:, :-1].contiguous(),
        bias=solution[:, -1].contiguous(),
        link=SOFTMAX,
        inverse_regularization=inverse_regularization,
    )
