"""How many exchanged labels are found, and what leaving them out or correcting them gains.

python -m bench.label_issues --backbone squeezenet1_0 --weights squeezenet1_0.pth
python -m bench.label_issues DATA... --share 0.05 --seeds 3

A share of the training images is moved to the folder of another class, drawn at random. Validation images stay right.
"""

import csv
import random
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import cyclopts
from rich.table import Table

from bench.images import write_digits, write_textures
from unfreeze.console import RESULTS, TerminalReporter, print_json
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.run import fine_tune

_COLUMNS = ("recall", "precision", "suggestions", "noisy", "dropped", "relabeled", "clean")


def main(
    *data: Path,
    backbone: str = "mobilenet_v3_small",
    weights: str = "builtin",
    recipe: str = "probe",
    share: float = 0.05,
    seeds: int = 3,
    json: Annotated[bool, cyclopts.Parameter(negative="")] = False,
) -> None:
    """Tune on the noisy labels, without the suspects, with the suggested labels, and on the right labels.

    Args:
        data: folders with train and val folders; by default digits and drawn textures.
        backbone: as for `unfreeze tune`.
        weights: as for `unfreeze tune`.
        recipe: as for `unfreeze tune`.
        share: of the training images whose label is exchanged.
        seeds: number of draws.
        json: print JSON instead of a table.
    """
    options = TuneOptions(backbone=backbone, weights=weights, recipe=recipe, store_gb=0.0)
    with tempfile.TemporaryDirectory() as name, TerminalReporter() as reporter:
        runs = [(folder, seed) for folder in data or _drawn(Path(name) / "drawn") for seed in range(seeds)]
        rows = [
            {"data": folder.name, "seed": seed, **_measure(folder, Path(name), seed, share, options, reporter)}
            for folder, seed in runs
        ]
    if json:
        print_json(rows)
        return
    table = Table("data", *_COLUMNS, title=f"{backbone}, {recipe}, {share:.0%} exchanged, means of {seeds} draws")
    for named in dict.fromkeys(row["data"] for row in rows):
        own = [row for row in rows if row["data"] == named]
        table.add_row(named, *(f"{mean(row[column] for row in own):.3f}" for column in _COLUMNS))
    RESULTS.print(table)


def _drawn(folder: Path) -> tuple[Path, ...]:
    write_digits(folder / "digits")
    write_textures(folder / "textures")
    return folder / "digits", folder / "textures"


def _measure(
    data: Path, folder: Path, seed: int, share: float, options: TuneOptions, reporter: TerminalReporter
) -> dict[str, Any]:
    noisy, run = folder / f"{data.name}-{seed}", folder / "run"
    moved = _exchange(data, noisy, seed, share)

    def accuracy(images: Path, out: Path, **changes: str) -> float:
        metrics = fine_tune(images, out, replace(options, **changes), reporter, overwrite=True)
        return float(metrics["val_accuracy"])

    found = {"noisy": accuracy(noisy, run)}
    with (run / "label_issues.csv").open(newline="") as file:
        lines = [row for row in csv.DictReader(file) if (row["kind"], row["split"]) == ("label", "train")]
    hits = [row for row in lines if row["path"] in moved]
    issues, again = str(run / "label_issues.csv"), folder / "again"
    return found | {
        "recall": len(hits) / len(moved),
        "precision": len(hits) / max(1, len(lines)),
        "suggestions": sum(moved[row["path"]] == row["suggested_label"] for row in hits) / max(1, len(hits)),
        "dropped": accuracy(noisy, again, drop_issues=issues),
        "relabeled": accuracy(noisy, again, relabel=issues),
        "clean": accuracy(data, again),
    }


def _exchange(data: Path, noisy: Path, seed: int, share: float) -> dict[str, str]:
    """Link the images into another folder, a share of them below another class; return the right class of these."""
    rng = random.Random(seed)  # noqa: S311 - nothing is secret here
    files = sorted((data / "train").glob("*/*"))
    kinds = sorted(path.name for path in (data / "train").iterdir())
    chosen = set(rng.sample(files, round(share * len(files))))
    moved = {}
    for file in (*files, *(data / "val").glob("*/*")):
        split, right = file.parts[-3], file.parent.name
        kind = rng.choice([one for one in kinds if one != right]) if file in chosen else right
        linked = noisy / split / kind / f"{right}-{file.name}"
        linked.parent.mkdir(parents=True, exist_ok=True)
        linked.symlink_to(file.absolute())
        if file in chosen:
            moved[linked.relative_to(noisy).as_posix()] = right
    return moved


if __name__ == "__main__":
    cyclopts.run(main)
