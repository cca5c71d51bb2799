"""`--recipe svm`: one linear support vector machine per class on frozen features, calibrated (Platt 1999)."""

from unfreeze.tune.recipes.recipe import LinearRecipe, Solver


def _solver(tolerance: float) -> Solver:
    from unfreeze.tune.recipes.solvers import OneVsRest  # SciPy is slow to import

    return OneVsRest("squared_hinge", tolerance)


RECIPE = LinearRecipe(
    name="svm",
    summary="one linear support vector machine per class on frozen features, calibrated",
    make_solver=_solver,
    link="sigmoid",
    calibrated=True,
)
