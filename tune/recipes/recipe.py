"""The two kinds of recipe: a linear classifier on frozen features, and training of blocks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from unfreeze.contract.arrays import Float, Int64

GENTLE_LEARNING_RATE = 5e-4  # keeps features that already fit
BOLD_LEARNING_RATE = 3e-3  # for features that have to change
BOTH_LEARNING_RATES = (GENTLE_LEARNING_RATE, BOLD_LEARNING_RATE)

Solution = tuple[np.ndarray, np.ndarray]


@runtime_checkable
class Solver(Protocol):
    """Fits weights [C, F] and biases [C] to labels 0 to C - 1, each of which occurs."""

    def fit(
        self,
        x: Float[np.ndarray, "n f"],
        y: Int64[np.ndarray, " n"],
        weights: Float[np.ndarray, " n"],
        inverse_regularization: float,
    ) -> Solution:
        """Minimize the loss, times `weights` and the inverse regularization, plus half the squared norm."""


@dataclass(frozen=True, kw_only=True)
class LinearRecipe:
    """A linear classifier on the frozen features after the last block.

    The automatic search tries all of them, on large datasets only the probe.

    Args:
        name: the value of `--recipe`.
        summary: what is fitted, in a few words, for help texts and docs.
        make_solver: creates a solver for a tolerance, the largest entry of the mean loss's gradient at which it stops.
        link: how logits become probabilities.
        calibrated: whether decision values become probabilities through sigmoids fitted on held-out images.
    """

    name: str
    summary: str
    make_solver: Callable[[float], Solver]
    link: Literal["softmax", "sigmoid"]
    calibrated: bool = False

    def accepts_cut(self, cut: str) -> bool:
        """Return whether the recipe can be combined with `--cut`."""
        return cut == "head"

    def trained_blocks(self, position: int, count: int) -> range:  # noqa: ARG002 - no block is trained at any cut
        """Return the indices of the trained blocks: none."""
        return range(count, count)


@dataclass(frozen=True, kw_only=True)
class SearchScope:
    """What the automatic search knows about the images before it trains any block.

    Args:
        few_images: whether there are too few images to start with deep cuts.
        out_of_domain: whether the images are unlike those the backbone was pretrained on.
    """

    few_images: bool
    out_of_domain: bool


@dataclass(frozen=True, kw_only=True)
class BlockRecipe:
    """Training of some blocks together with the head.

    Args:
        name: the value of `--recipe`.
        summary: what is trained, in a few words, for help texts and docs.
        trained_blocks: maps the position of the cut and the number of blocks to the indices of the trained blocks.
        learning_rates: of the last block, to compare by cross-validation when none is given; a single one is used
            without a trial.
        epoch_factor: multiplies the default number of epochs.
        adapts: whether low-rank adapters of the blocks' attention are trained instead of the blocks.
        pretrained: whether training starts from the pretrained weights; otherwise from random ones.
        accepts_cut: returns whether the recipe can be combined with a value of `--cut`.
        chooses_cut: whether the cut is chosen by cross-validation when none is given; otherwise it is "all".
        search_cuts: maps the names of the blocks and what is known about the images to the cuts that the automatic
            search tries, the cheapest first. By default none.
    """

    name: str
    summary: str
    trained_blocks: Callable[[int, int], range]
    learning_rates: tuple[float, ...] = BOTH_LEARNING_RATES
    epoch_factor: int = 1
    adapts: bool = False
    pretrained: bool = True
    accepts_cut: Callable[[str], bool] = lambda _: False
    chooses_cut: bool = False
    search_cuts: Callable[[Sequence[str], SearchScope], Sequence[str]] = lambda _, __: ()


Recipe = LinearRecipe | BlockRecipe
