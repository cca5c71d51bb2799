"""Open the teacher of a run."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from unfreeze.contract.counted import counted
from unfreeze.contract.errors import ModelError
from unfreeze.contract.model.repository import find_model
from unfreeze.tune.artifacts.checkpoint import FACTS_FILE, RunFacts, load_run
from unfreeze.tune.data.dataset import Dataset, stored_path
from unfreeze.tune.data.images import TRAIN, VAL
from unfreeze.tune.data.inspection.findings import Finding, finding, path_name
from unfreeze.tune.data.inspection.unlabeled import check_folder
from unfreeze.tune.distillation.network_teacher import NetworkTeacher
from unfreeze.tune.distillation.onnx_teacher import open_model
from unfreeze.tune.distillation.teacher import Teacher, TeacherIdentity, match_labels
from unfreeze.tune.features.stored import weights_digest
from unfreeze.tune.options import TuneOptions


def open_teacher(path: Path, dataset: Dataset, device: torch.device) -> tuple[Teacher, Sequence[Finding]]:
    """Open a run or an exported model, and check its labels.

    Args:
        path: folder of a run; or a `model.onnx`, folder of a version, or folder of a model, for its newest version.
        dataset: the student's.
        device: to compute on.

    Returns:
        The teacher; and findings if it was trained on images of the student.

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
        findings = list(_known_images(facts, dataset))
    else:
        teacher, findings = open_model(_find(path), device), []
    match_labels(teacher.labels, dataset.labels, str(teacher.identity))
    return teacher, [found for found in findings if found.count]


def check_paths(options: TuneOptions) -> None:
    """Check that the teacher and the images without labels exist, before anything is downloaded or read.

    Raises:
        DataError: there is no folder of images.
        ModelError: there is no model.
    """
    if options.teacher is not None and not (Path(options.teacher) / FACTS_FILE).is_file():
        _find(Path(options.teacher))
    if options.unlabeled is not None:
        check_folder(Path(options.unlabeled))


def _find(path: Path) -> Path:
    try:
        return find_model(path)
    except ModelError:
        raise ModelError(
            f"--teacher {path} is neither the folder of a finished run, nor a model.onnx or a folder with one; give "
            "the folder that `unfreeze tune` wrote, or a model that `unfreeze export` wrote"
        ) from None


def _known_images(facts: RunFacts, dataset: Dataset) -> Iterator[Finding]:
    """Report images of the same dataset that the teacher may have been trained on: all but its validation images."""
    if Path(facts.data) != dataset.root.absolute():
        return
    validated = {file.path for file in facts.val}
    known = {
        split: [path for path in (image.path for image in images) if stored_path(path, dataset.root) not in validated]
        for split, images in dataset.splits.items()
    }
    text = (
        f"{counted(len(known[VAL]), 'validation image is', 'validation images are')} not among those of the teacher, "
        "which may have been trained on them, so that the validation accuracy may be too high; tune both with the same "
        "--seed and --val-fraction, or make a val folder"
    )
    yield finding("teacher-validation", text, (path_name(path, dataset.root) for path in known[VAL]))
    text = (
        f"the teacher was trained on {counted(len(known[TRAIN]), 'training image')}, also on those that are held out "
        "to judge it, so that cross-validation favors it; the validation images do not"
    )
    yield finding("teacher-training", text, (path_name(path, dataset.root) for path in known[TRAIN]), handled=True)
