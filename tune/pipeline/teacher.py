"""Open the teacher of a run."""

from collections.abc import Sequence
from pathlib import Path

import torch

from unfreeze.contract.counted import counted
from unfreeze.contract.errors import ModelError
from unfreeze.contract.model.repository import find_model
from unfreeze.tune.artifacts.checkpoint import FACTS_FILE, RunFacts, load_run
from unfreeze.tune.data.dataset import Dataset, stored_path
from unfreeze.tune.data.images import VAL
from unfreeze.tune.data.inspection.findings import Finding, finding, path_name
from unfreeze.tune.distillation.network_teacher import NetworkTeacher
from unfreeze.tune.distillation.onnx_teacher import open_model
from unfreeze.tune.distillation.teacher import Teacher, TeacherIdentity, match_labels
from unfreeze.tune.features.stored import weights_digest


def open_teacher(path: Path, dataset: Dataset, device: torch.device) -> tuple[Teacher, Sequence[Finding]]:
    """Open a run or an exported model, and check its labels.

    Args:
        path: folder of a run; or a `model.onnx`, folder of a version, or folder of a model, for its newest version.
        dataset: the student's.
        device: to compute on.

    Returns:
        The teacher; and a finding if it may have been trained on validation images of the student.

    Raises:
        DataError: its labels are not those of the dataset.
        ModelError: there is no model, or it cannot be used.
        CheckpointError: the run is damaged.
    """
    if (path / FACTS_FILE).is_file():
        with torch.random.fork_rng():  # the weights that a new network draws must not change those of the student
            network, facts = load_run(path)
        teacher: Teacher = NetworkTeacher(
            identity=TeacherIdentity(
                name=path.absolute().name,
                version="",
                backbone=facts.provenance.backbone,
                sha256=facts.weights_sha256 or weights_digest(network),
            ),
            network=network.to(device).to(memory_format=torch.channels_last),
            labels=facts.labels,
            spec=facts.preprocess,
            calibration=facts.temperature,
            device=device,
        )
        findings = [_seen_validation_images(facts, dataset)]
    else:
        teacher, findings = open_model(_find(path), device), []
    match_labels(teacher.labels, dataset.labels, str(teacher.identity))
    return teacher, [found for found in findings if found.count]


def _find(path: Path) -> Path:
    try:
        return find_model(path)
    except ModelError:
        raise ModelError(
            f"--teacher {path} is neither the folder of a finished run, nor a model.onnx or a folder with one; give "
            "the folder that `unfreeze tune` wrote, or a model that `unfreeze export` wrote"
        ) from None


def _seen_validation_images(facts: RunFacts, dataset: Dataset) -> Finding:
    """Report validation images of the same dataset that the teacher was not validated on, so that it may know them."""
    validated = {file.path for file in facts.val}
    own = [image.path for image in dataset.splits[VAL]]
    same_data = Path(facts.data) == dataset.root.absolute()
    seen = [path for path in own if stored_path(path, dataset.root) not in validated] if same_data else []
    text = (
        f"{counted(len(seen), 'validation image is', 'validation images are')} not among those of the teacher, which "
        "may have been trained on them, so that the validation accuracy may be too high; tune both with the same "
        "--seed and --val-fraction, or make a val folder"
    )
    return finding("teacher-validation", text, (path_name(path, dataset.root) for path in seen))
