"""How well images unlike the training images are recognized, and what that costs.

python -m bench.ood DATA --weights squeezenet1_0.pth
python -m bench.ood DATA --weights squeezenet1_0.pth --json

A probe is tuned on a folder of photographs. Foreign images are drawn: rosettes, which look like flowers, textures, and
scikit-learn's digits. Every method scores them and the validation images.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import cyclopts
import numpy as np
import torch
from PIL import Image
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import Tensor

from bench.pretrain.catalog import FAMILIES
from bench.pretrain.finish import finish
from unfreeze.console import RESULTS, TerminalReporter, print_json
from unfreeze.contract.images.preprocess import PreprocessSpec, resize_and_crop
from unfreeze.contract.model.ood import METHODS, Method
from unfreeze.contract.reporting import Reporter
from unfreeze.export.added_outputs import AddedOutputs
from unfreeze.export.graph import CalibratedNetwork, onnx_from_network
from unfreeze.export.prepared import prepare_images
from unfreeze.export.session import Session
from unfreeze.export.speed import time_alternately
from unfreeze.tune.artifacts.checkpoint import load_run
from unfreeze.tune.ood.comparison import compare_scores
from unfreeze.tune.ood.gaussian import Gaussians
from unfreeze.tune.ood.score import FEATURE_METHODS, Score
from unfreeze.tune.ood.threshold import threshold_of
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.run import fine_tune

_EACH = 120  # foreign images of a kind
_PX, _BATCH = 224, 8
_SHARE, _SPLITS = 0.05, 500
_RECALL = 0.95


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One method.

    Args:
        method: how images are scored.
        aurocs: of the validation images against the foreign ones, by kind.
        accepted: share of the foreign images that is accepted if 95 % of the validation images are, by kind.
        false_alarms: of a threshold of one half of the validation images, on the other half: mean, and 5 % and 95 %
            quantiles over random halves.
        latency: of the graph with the score, by batch size, as a multiple of that without.
    """

    method: Method
    aurocs: dict[str, float]
    accepted: dict[str, float]
    false_alarms: tuple[float, float, float]
    latency: dict[int, float]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What the head of the network takes and gives.

    Args:
        features: pooled.
        logits: of the head.
    """

    features: Tensor
    logits: Tensor


def main(
    data: Path, *, weights: str, rounds: int = 40, json: Annotated[bool, cyclopts.Parameter(negative="")] = False
) -> None:
    """Tune a probe, score validation images and foreign images, and time graphs.

    Args:
        data: folder of labeled images.
        weights: pretrained weights of squeezenet1_0, as for `unfreeze tune`.
        rounds: how often each graph is timed.
        json: print JSON instead of tables.
    """
    with tempfile.TemporaryDirectory() as name, TerminalReporter() as reporter:
        run = Path(name) / "run"
        options = TuneOptions(backbone="squeezenet1_0", weights=weights, recipe="probe", store_gb=0.0)
        fine_tune(data, run, options, reporter)
        network, facts = load_run(run)
        calibrated = CalibratedNetwork(network, facts.temperature, facts.link)
        prepared = [
            prepare_images(files, facts.preprocess, "preparing the images", reporter)
            for files in (facts.training_images(), facts.images())
        ]
        trained, validated = (_scored(calibrated, images.pixels, reporter) for images in prepared)
        kinds = {
            kind: (_scored(calibrated, pixels, reporter), labels) for kind, pixels, labels in _foreign(facts.preprocess)
        }
        gaussians = Gaussians.fit(trained.features, torch.from_numpy(prepared[0].labels))
        scores = {
            method: Score(
                method=method,
                temperature=facts.temperature,
                link=facts.link,
                gaussians=gaussians if method in FEATURE_METHODS else None,
            )
            for method in METHODS
        }
        latency = _latency(calibrated, scores, facts.preprocess.shape, rounds)
        foreign = {kind: found for kind, (found, _) in kinds.items()}
        figures = [_figures(score, validated, foreign, latency[method]) for method, score in scores.items()]
        left_out = {
            kind: compare_scores(found.features, torch.from_numpy(labels), 0.01, 0)
            for kind, (found, labels) in kinds.items()
        }
    areas = {kind: found.aurocs for kind, found in left_out.items() if found is not None}
    if json:
        figures_json = [asdict(one) for one in figures]
        print_json({"methods": figures_json, "classes_left_out": areas, "features": latency["features"]})
        return
    _print(figures, areas, latency["features"], len(validated.logits))


def _print(
    figures: list[Figures], areas: dict[str, dict[Method, float]], features: dict[int, float], images: int
) -> None:
    kinds = tuple(figures[0].aurocs)
    table = Table("method", *kinds, title="AUROC; in brackets, foreign images accepted where 95 % of the own are")
    for one in figures:
        table.add_row(one.method, *(f"{one.aurocs[kind]:.3f} ({one.accepted[kind]:.0%})" for kind in kinds))
    RESULTS.print(table)
    table = Table("method", *areas, title="AUROC of classes that were left out")
    for one in figures:
        table.add_row(one.method, *(f"{found[one.method]:.3f}" for found in areas.values()))
    RESULTS.print(table)
    columns = "method", f"false alarms, wanted {_SHARE:.0%}", "5 % to 95 %", "latency, batch 1", f"batch {_BATCH}"
    table = Table(*columns, title=f"thresholds of half of {images} images; latency as a multiple of the plain graph")
    for one in figures:
        mean, low, high = one.false_alarms
        latency = (f"{ratio:.3f}" for ratio in one.latency.values())
        table.add_row(one.method, f"{mean:.1%}", f"{low:.1%} to {high:.1%}", *latency)
    table.add_row("features", "", "", *(f"{ratio:.3f}" for ratio in features.values()))
    RESULTS.print(table)


def _figures(score: Score, own: Scored, foreign: dict[str, Scored], latency: dict[int, float]) -> Figures:
    inside = score.of(own.logits, own.features).numpy()
    limit = np.quantile(inside, _RECALL)
    outside = {kind: score.of(found.logits, found.features).numpy() for kind, found in foreign.items()}
    is_foreign = {kind: np.repeat([0, 1], [len(inside), len(found)]) for kind, found in outside.items()}
    return Figures(
        method=score.method,
        aurocs={
            kind: float(roc_auc_score(is_foreign[kind], np.concatenate([inside, found])))
            for kind, found in outside.items()
        },
        accepted={kind: float((found <= limit).mean()) for kind, found in outside.items()},
        false_alarms=_false_alarms(inside),
        latency=latency,
    )


def _false_alarms(scores: np.ndarray) -> tuple[float, float, float]:
    """Choose the threshold on a random half and count false alarms in the other, many times."""
    shares = []
    for split in range(_SPLITS):
        order = np.random.default_rng(split).permutation(len(scores))
        first, second = np.array_split(scores[order], 2)
        shares.append((second > threshold_of(first, _SHARE).value).mean())
    return float(np.mean(shares)), *(float(value) for value in np.quantile(shares, [0.05, 0.95]))


def _scored(network: CalibratedNetwork, pixels: np.ndarray, reporter: Reporter) -> Scored:
    advance, parts = reporter.track("running the network", len(pixels)), []
    for start in range(0, len(pixels), _BATCH):
        batch = np.array(pixels[start : start + _BATCH])
        with torch.inference_mode():
            parts.append(network.pooled(torch.from_numpy(batch)))
        advance(len(batch))
    features, logits = (torch.cat(part) for part in zip(*parts, strict=True))
    return Scored(features=features, logits=logits)


def _latency(
    network: CalibratedNetwork, scores: dict[Method, Score], shape: tuple[int, int, int], rounds: int
) -> dict[str, dict[int, float]]:
    """Time the graphs in turn; the fastest run of each counts, because other load can only slow a run down."""
    plain = onnx_from_network(network, shape)
    graphs = {"plain": plain, "features": AddedOutputs(features=True).add_to(plain)}
    graphs |= {method: AddedOutputs(score=score).add_to(plain) for method, score in scores.items()}
    sessions = {name: Session(graph.SerializeToString(), "fp32") for name, graph in graphs.items()}
    found: dict[str, dict[int, float]] = {name: {} for name in graphs}
    for batch in (1, _BATCH):
        pixels = np.random.default_rng(batch).integers(0, 256, (batch, *shape), np.uint8)
        runs = {
            name: partial(session.features if name == "features" else session.answers, pixels)
            for name, session in sessions.items()
        }
        seconds = time_alternately(runs, rounds)
        for name, own in seconds.items():
            found[name][batch] = min(own) / min(seconds["plain"])
    return found


def _foreign(spec: PreprocessSpec) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Draw foreign images of each kind: prepared pixels, and the classes."""
    for family in ("rosette", "texture"):
        names = sorted(FAMILIES[family])
        labels = np.arange(_EACH) % len(names)
        generators = (np.random.default_rng((1, number)) for number in range(_EACH))
        drawn = [
            finish(rng, FAMILIES[family][names[label]](rng, _PX)) for rng, label in zip(generators, labels, strict=True)
        ]
        yield family, _pixels([Image.fromarray(one) for one in drawn], spec), labels
    digits = load_digits()
    scans = [Image.fromarray((one / 16 * 255).astype(np.uint8)).convert("RGB") for one in digits.images[:_EACH]]
    yield "digit", _pixels([one.resize((_PX, _PX)) for one in scans], spec), digits.target[:_EACH]


def _pixels(images: list[Image.Image], spec: PreprocessSpec) -> np.ndarray:
    return np.stack([np.asarray(resize_and_crop(image, spec)) for image in images])


if __name__ == "__main__":
    cyclopts.run(main)
