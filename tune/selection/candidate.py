"""A candidate: one recipe with its cut and learning rate."""

from typing import NamedTuple

from unfreeze.tune.backbones.network import HEAD
from unfreeze.tune.recipes.registry import is_linear


class Candidate(NamedTuple):
    """One way to tune.

    Args:
        recipe: its name.
        cut: the first trained block, or "head" if no block is trained.
        learning_rate: of the last block; 0 if no block is trained.
    """

    recipe: str
    cut: str
    learning_rate: float

    @classmethod
    def linear(cls, recipe: str) -> "Candidate":
        """Create the candidate of a linear recipe."""
        return cls(recipe, HEAD, 0.0)

    def __str__(self) -> str:
        """Describe the candidate in a few words."""
        if is_linear(self.recipe):
            return self.recipe
        return f"{self.recipe} from {self.cut} at learning rate {self.learning_rate:g}"
