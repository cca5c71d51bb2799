"""The score of a run that recognizes images unlike its training images."""

import os
from pathlib import Path

import safetensors

from unfreeze.contract.errors import CheckpointError
from unfreeze.tune.artifacts.checkpoint import WEIGHTS_FILE, RunFacts
from unfreeze.tune.ood.detector import SCORE_PREFIX
from unfreeze.tune.ood.gaussian import Gaussians
from unfreeze.tune.ood.score import FEATURE_METHODS, Score


def load_score(run: str | os.PathLike[str], facts: RunFacts) -> Score | None:
    """Load it from a finished run that was read and checked.

    Args:
        run: the folder that `unfreeze tune` wrote.
        facts: of that run.

    Returns:
        None if the run has none.

    Raises:
        CheckpointError: tensors that the score needs are missing.
    """
    if facts.ood is None:
        return None
    gaussians = _gaussians(Path(run) / WEIGHTS_FILE) if facts.ood.method in FEATURE_METHODS else None
    return Score(method=facts.ood.method, temperature=facts.temperature, link=facts.link, gaussians=gaussians)


def _gaussians(path: Path) -> Gaussians:
    with safetensors.safe_open(path, "pt") as file:
        found = {
            name.removeprefix(SCORE_PREFIX): file.get_tensor(name)
            for name in file.keys()  # noqa: SIM118 - it is no mapping
            if name.startswith(SCORE_PREFIX)
        }
    try:
        return Gaussians(**found)
    except TypeError as error:
        raise CheckpointError(f"{path} is damaged: tensors of {SCORE_PREFIX} differ ({error}); tune again") from error
