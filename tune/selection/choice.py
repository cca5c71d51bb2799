"""The outcome of the search, and its serialization."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from unfreeze.tune.evaluation.accuracy import accuracies
from unfreeze.tune.selection.candidate import Candidate
from unfreeze.tune.selection.survey import DepthScore


@dataclass(frozen=True, kw_only=True)
class Score:
    """Cross-validated accuracy of a candidate, and its balanced accuracy: the mean recall of the classes.

    Args:
        recipe: its name.
        cut: the first trained block, or "head" if no block is trained.
        learning_rate: of the last block; 0 if no block is trained.
        accuracy: over all held-out images, 0 to 1.
        standard_error: of the accuracy.
        balanced_accuracy: over the same images, 0 to 1.
        balanced_standard_error: of the balanced accuracy.
        images: number of held-out images, in the folds that the candidate was tried on.
        chosen: whether this candidate was chosen.
    """

    recipe: str
    cut: str
    learning_rate: float
    accuracy: float
    standard_error: float
    balanced_accuracy: float
    balanced_standard_error: float
    images: int
    chosen: bool


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The chosen candidate, and the evidence for it.

    Args:
        candidate: the one to tune with.
        reason: one sentence.
        depths: accuracy of frozen features by cut, from the input to the head; empty if the cut was not searched.
        scores: of all candidates that were tried.
    """

    candidate: Candidate
    reason: str
    depths: tuple[DepthScore, ...] = ()
    scores: tuple[Score, ...] = ()


def score(candidate: Candidate, correct: np.ndarray, labels: np.ndarray, *, chosen: bool) -> Score:
    """Summarize which held-out images a candidate classified correctly, bool [n]; `labels` has their classes."""
    return Score(
        recipe=candidate.recipe,
        cut=candidate.cut,
        learning_rate=candidate.learning_rate,
        images=len(correct),
        chosen=chosen,
        **accuracies(correct, labels),
    )


def choice_state(choice: Choice) -> dict[str, Any]:
    """Convert a choice to plain types, which `torch.load(weights_only=True)` accepts."""
    return vars(choice) | {
        "candidate": tuple(choice.candidate),
        "depths": [asdict(depth) for depth in choice.depths],
        "scores": [asdict(score) for score in choice.scores],
    }


def choice_from_state(state: dict[str, Any]) -> Choice:
    """Restore a choice from the result of `choice_state`."""
    return Choice(
        candidate=Candidate(*state["candidate"]),
        reason=state["reason"],
        depths=tuple(DepthScore(**depth) for depth in state["depths"]),
        scores=tuple(Score(**score) for score in state["scores"]),
    )
