"""`--recipe one-vs-rest`: one logistic regression per class on frozen features."""

from unfreeze.tune.recipes.recipe import LinearRecipe, Solver


def _solver(tolerance: float) -> Solver:
    from unfreeze.tune.recipes.solvers import OneVsRest  # SciPy is slow to import

    return OneVsRest("logistic", tolerance)


RECIPE = LinearRecipe(
    name="one-vs-rest",
    summary="one logistic regression per class on frozen features",
    make_solver=_solver,
    link="sigmoid",
)
