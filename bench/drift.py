"""How often drift is noticed: windows of drawn images with shifts of three strengths, and without any.

python -m bench.drift
python -m bench.drift --windows 1000 --json

A network is tuned on seven kinds of stars and polygons. Windows are drawn from a pool of images that it has not seen:
as they are, darker, blurred, with other shares of the kinds, and with images of an eighth kind. An alarm is one in any
quantity at the server's defaults, of a model that was exported with features, and without them.
"""

import io
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import cyclopts
import numpy as np
from PIL import Image, ImageFilter
from rich.table import Table

from bench.pretrain.catalog import FAMILIES
from bench.pretrain.finish import finish
from unfreeze.console import RESULTS, TerminalReporter, print_json
from unfreeze.contract.drift.reference import sample
from unfreeze.contract.drift.window import FEATURES, Window
from unfreeze.contract.images.preprocess import prepare
from unfreeze.export.options import ExportOptions
from unfreeze.export.run import export_model
from unfreeze.serve.runtimes.base import Runtime
from unfreeze.serve.runtimes.registry import open_runtime
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.run import fine_tune

_PX, _KINDS, _TRAIN, _VAL, _POOL = 192, 8, 60, 40, 150
_BATCH = 32
_SIZES = (50, 200, 1000)
Seen = tuple[np.ndarray, np.ndarray]  # of a pool of images: sampled pixels, and the model's answers
Draw = Callable[[np.random.Generator, int], Seen]


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How often windows raised an alarm.

    Args:
        shift: what was done to the images.
        strength: how much of it.
        images: of a window.
        alarms: share of the windows with an alarm.
        alarms_without_features: the same for a model that was exported without features.
    """

    shift: str
    strength: float
    images: int
    alarms: float
    alarms_without_features: float


def main(*, windows: int = 100, json: Annotated[bool, cyclopts.Parameter(negative="")] = False) -> None:
    """Tune, export, draw windows and count alarms.

    Args:
        windows: number of windows of each size and shift.
        json: print JSON instead of a table.
    """
    with tempfile.TemporaryDirectory() as name, TerminalReporter() as reporter:
        folder = Path(name)
        for split, first, count in (("train", 0, _TRAIN), ("val", 10_000, _VAL)):
            _write(folder / "images" / split, range(_KINDS - 1), range(first, first + count))
        options = TuneOptions(backbone="mobilenet_v3_small", weights="builtin", store_gb=0.0)
        fine_tune(folder / "images", folder / "run", options, reporter)
        published = export_model(
            folder / "run", folder / "models", "stars", ExportOptions(features=True), reporter=reporter
        )
        with open_runtime(published.path, "cpu") as runtime:
            rates = list(_rates(runtime, windows))
    if json:
        print_json([asdict(rate) for rate in rates])
        return
    title = f"share of {windows} windows with an alarm (without features)"
    table = Table("shift", "strength", *(f"{size:,} images" for size in _SIZES), title=title)
    for at in range(0, len(rates), len(_SIZES)):
        row = rates[at : at + len(_SIZES)]
        cells = (f"{rate.alarms:.2f} ({rate.alarms_without_features:.2f})" for rate in row)
        table.add_row(row[0].shift, f"{row[0].strength:g}", *cells)
    RESULTS.print(table)


def _rates(runtime: Runtime, windows: int) -> Iterator[Rate]:
    reference = runtime.manifest.drift
    assert reference is not None  # noqa: S101 - it was exported now
    for number, (shift, strength, draw) in enumerate(_shifts(runtime)):
        for images in _SIZES:
            rng, found = np.random.default_rng((number, images)), []
            for _ in range(windows):
                window = Window(reference, 10 * images, runtime.manifest.projected)
                window.add_sampled(*draw(rng, images))
                found.append(window.drift().alarms)
            yield Rate(
                shift=shift,
                strength=strength,
                images=images,
                alarms=sum(map(bool, found)) / windows,
                alarms_without_features=sum(bool(set(one) - {FEATURES}) for one in found) / windows,
            )


def _shifts(runtime: Runtime) -> Iterator[tuple[str, float, Draw]]:
    """Yield the shifts and their strengths, with a function that draws the measured values of a window."""
    drawn = [_draw(kind, range(100_000, 100_000 + _POOL)) for kind in range(_KINDS)]
    known = [image for kind in drawn[:-1] for image in kind]
    plain, new = _measured(runtime, known), _measured(runtime, drawn[-1])
    yield "none", 0.0, partial(_pick, plain, None)
    for strength in (0.9, 0.75, 0.5):
        darker = [image.point(lambda value, by=strength: int(value * by)) for image in known]
        yield "darker, times", strength, partial(_pick, _measured(runtime, darker), None)
    for strength in (0.5, 1.0, 2.0):
        blurred = [image.filter(ImageFilter.GaussianBlur(strength)) for image in known]
        yield "blurred, pixels", strength, partial(_pick, _measured(runtime, blurred), None)
    for strength in (1.5, 2.0, 4.0):
        weights = np.where(np.arange(len(known)) < _POOL, strength, 1.0)
        yield "one kind more often, times", strength, partial(_pick, plain, weights / weights.sum())
    both = np.concatenate([plain[0], new[0]], axis=1), np.concatenate([plain[1], new[1]])
    for strength in (0.05, 0.15, 0.4):
        weights = np.repeat([(1 - strength) / len(known), strength / _POOL], [len(known), _POOL])
        yield "a new kind, share", strength, partial(_pick, both, weights)


def _pick(seen: Seen, weights: np.ndarray | None, rng: np.random.Generator, images: int) -> Seen:
    sampled, answers = seen
    rows = rng.choice(len(answers), images, p=weights)
    return sampled[:, rows], answers[rows]


def _measured(runtime: Runtime, images: Sequence[Image.Image]) -> Seen:
    pixels = np.stack([prepare(_png(image), runtime.manifest.preprocess) for image in images])
    batches = range(0, len(pixels), _BATCH)
    return sample(pixels), np.concatenate([runtime.run(pixels[at : at + _BATCH]) for at in batches])


def _draw(kind: int, numbers: Iterable[int]) -> list[Image.Image]:
    name = sorted(FAMILIES["star"])[kind]
    generators = (np.random.default_rng((kind, number)) for number in numbers)
    return [Image.fromarray(finish(rng, FAMILIES["star"][name](rng, _PX))) for rng in generators]


def _write(folder: Path, kinds: Iterable[int], numbers: range) -> None:
    for kind in kinds:
        path = folder / f"kind-{kind}"
        path.mkdir(parents=True)
        for number, image in zip(numbers, _draw(kind, numbers), strict=True):
            image.save(path / f"{number}.png")


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    cyclopts.run(main)
