"""A candidate: one recipe with its cut and learning rate, with or without a teacher."""

from typing import NamedTuple

from unfreeze.tune.backbones.network import HEAD
from unfreeze.tune.recipes.registry import is_linear


class Candidate(NamedTuple):
    """One way to tune.

    Args:
        recipe: its name.
        cut: the first trained block, or "head" if no block is trained.
        learning_rate: of the last block; 0 if no block is trained.
        temperature: that softens the answers of a teacher.
        teacher_weight: of these answers in the loss; 0 without a teacher.
    """

    recipe: str
    cut: str
    learning_rate: float
    temperature: float = 1.0
    teacher_weight: float = 0.0

    @classmethod
    def linear(cls, recipe: str) -> "Candidate":
        """Create the candidate of a linear recipe."""
        return cls(recipe, HEAD, 0.0)

    @property
    def is_taught(self) -> bool:
        """Whether a teacher's answers are trained on."""
        return self.teacher_weight > 0

    def __str__(self) -> str:
        """Describe the candidate in a few words."""
        trained = "" if is_linear(self.recipe) else f" from {self.cut} at learning rate {self.learning_rate:g}"
        taught = f" taught at temperature {self.temperature:g} with weight {self.teacher_weight:g}"
        return f"{self.recipe}{trained}{taught if self.is_taught else ''}"
