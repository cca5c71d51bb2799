"""`--recipe probe`: multinomial logistic regression on frozen features."""

from unfreeze.tune.recipes.recipe import LinearRecipe, Solver


def _solver(tolerance: float) -> Solver:
    from unfreeze.tune.recipes.solvers import Multinomial  # scikit-learn is slow to import

    return Multinomial(tolerance)


RECIPE = LinearRecipe(
    name="probe",
    summary="multinomial logistic regression on frozen features",
    make_solver=_solver,
    link="softmax",
)
