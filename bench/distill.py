"""A student alone, taught, and taught with images without labels, beside its teacher.

python -m bench.distill DATA... --teacher-weights lite0.safetensors --student-weights squeezenet1_0.pth

For every seed, a share of the training images keeps its labels; teacher and students are tuned on these. The other
training images are those without labels. Validation images judge.
"""

import math
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import cyclopts
import numpy as np
from rich.table import Table

from unfreeze.console import RESULTS, TerminalReporter, print_json
from unfreeze.demo.wallpaper.dataset import WallpaperSet, write_wallpaper_groups
from unfreeze.tune.data.dataset import TRAIN, VAL, read_dataset
from unfreeze.tune.data.folds import stratified_part
from unfreeze.tune.data.images import labels_of
from unfreeze.tune.device.heap import keep_freed_memory
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.run import fine_tune

_DRAWN = WallpaperSet(train_per_class=24, val_per_class=12)
_STUDENTS = ("alone", "taught", "taught, with images without labels")


def main(
    *data: Path,
    teacher: str = "timm/tf_efficientnet_lite0",
    teacher_weights: str = "default",
    teacher_recipe: str = "probe",
    student: str = "squeezenet1_0",
    student_weights: str = "default",
    recipe: str = "probe",
    epochs: int | None = None,
    share: float = 0.5,
    seeds: int = 3,
    json: Annotated[bool, cyclopts.Parameter(negative="")] = False,
) -> None:
    """Tune a teacher and three students for every seed.

    Args:
        data: folders with train and val folders; by default drawn wallpaper groups, 17 classes.
        teacher: backbone of the teacher.
        teacher_weights: its weights, as for `unfreeze tune`.
        teacher_recipe: its recipe.
        student: backbone of the student.
        student_weights: its weights.
        recipe: of the student.
        epochs: of the student, where blocks are trained.
        share: of the training images that keep their labels.
        seeds: number of draws of these images.
        json: print JSON instead of a table.
    """
    keep_freed_memory()
    teaching = TuneOptions(backbone=teacher, weights=teacher_weights, recipe=teacher_recipe)
    learning = TuneOptions(backbone=student, weights=student_weights, recipe=recipe, epochs=epochs)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name, TerminalReporter() as reporter:
        for source in data or (_draw(Path(name) / "wallpaper"),):
            for seed in range(seeds):
                folder = Path(name) / f"{source.name}-{seed}"
                _split(source, folder, share, seed)
                rows += _measure(source.name, folder, seed, teaching, learning, reporter)
    if json:
        print_json(rows)
        return
    table = Table(
        "data", "network", "validation accuracy", "against alone", "kept", "cross-validated, alone and taught"
    )
    for found, which in dict.fromkeys((row["data"], row["which"]) for row in rows):
        table.add_row(found, which, *_cells([row for row in rows if (row["data"], row["which"]) == (found, which)]))
    RESULTS.print(table)


def _draw(folder: Path) -> Path:
    write_wallpaper_groups(folder, _DRAWN)
    return folder


def _split(source: Path, folder: Path, share: float, seed: int) -> None:
    """Link the images into `data`, a share of the training images, and `unlabeled`, the others without their class."""
    dataset = read_dataset(source)
    images = dataset.splits[TRAIN]
    labeled = set(stratified_part(labels_of(images).numpy(), share * len(images), seed).tolist())
    for number, image in enumerate(images):
        kind = dataset.labels[image.label]
        target = folder / "data" / TRAIN / kind if number in labeled else folder / "unlabeled"
        _link(image.path, target, f"{number}-{image.path.name}")
    for image in dataset.splits[VAL]:
        _link(image.path, folder / "data" / VAL / dataset.labels[image.label], image.path.name)


def _link(image: Path, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).symlink_to(image.absolute())


def _measure(
    name: str, folder: Path, seed: int, teaching: TuneOptions, learning: TuneOptions, reporter: TerminalReporter
) -> list[dict[str, Any]]:
    data, run = folder / "data", folder / "teacher"
    taught = replace(learning, seed=seed, teacher=str(run))
    options = {
        "teacher": (run, replace(teaching, seed=seed)),
        _STUDENTS[0]: (folder / "alone", replace(learning, seed=seed)),
        _STUDENTS[1]: (folder / "taught", taught),
        _STUDENTS[2]: (folder / "unlabeled-taught", replace(taught, unlabeled=str(folder / "unlabeled"))),
    }
    rows = []
    for which, (out, chosen) in options.items():
        metrics = fine_tune(data, out, chosen, reporter)
        names = ("val_accuracy", "val_nll", "images", "distillation", "seconds", "recipe", "cut")
        rows.append({"data": name, "seed": seed, "which": which} | {one: metrics[one] for one in names})
    alone = next(row["val_accuracy"] for row in rows if row["which"] == _STUDENTS[0])
    return [row | {"against_alone": row["val_accuracy"] - alone} for row in rows]


def _cells(rows: list[dict[str, Any]]) -> list[str]:
    """Return means over the seeds, with the standard error of the mean."""
    accuracies, gains = ([row[name] for row in rows] for name in ("val_accuracy", "against_alone"))
    cells = [_estimate(accuracies), _estimate(gains, "+") if any(gains) or rows[0]["which"] in _STUDENTS[1:] else ""]
    verdicts = [row["distillation"] for row in rows if row["distillation"]]
    if not verdicts:
        return [*cells, "", ""]
    settings = "; ".join(f"T {one['temperature']:g}, w {one['weight']:g}" for one in verdicts if one["kept"])
    kept = f"{sum(one['kept'] for one in verdicts)} of {len(verdicts)}{f' ({settings})' if settings else ''}"
    scores = [float(np.mean([one[f"{name}_accuracy"] for one in verdicts])) for name in ("own", "taught")]
    return [*cells, kept, f"{scores[0]:.3f}, {scores[1]:.3f}"]


def _estimate(values: list[float], sign: str = "") -> str:
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return f"{mean(values):{sign}.3f} ± {error:.3f}"


if __name__ == "__main__":
    cyclopts.run(main)
