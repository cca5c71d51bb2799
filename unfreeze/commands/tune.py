"""`unfreeze tune`."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from unfreeze.console import REMARKS, RESULTS, TerminalReporter, print_json
from unfreeze.contract.counted import counted
from unfreeze.contract.errors import OptionsError, first_line
from unfreeze.contract.model.ood import BASELINE
from unfreeze.contract.reporting import Reporter
from unfreeze.ray_train.options import RayOptions
from unfreeze.signals import sigterm_as_interrupt
from unfreeze.track.tracker import TrackerName, check_trackers, track_run
from unfreeze.tune.options import BACKBONE, OUTPUT, TuneOptions

_DEFAULTS, _NO_RAY = TuneOptions(), RayOptions()
_FLAG = Parameter(negative="", group=OUTPUT)
_BACKBONE = Parameter(group=BACKBONE)

EXAMPLES = """Examples:

    unfreeze tune images/ --out run/
    unfreeze tune labels.csv --out run/ --abstain-precision 0.99 --strict
    unfreeze tune photos.csv --out run/ --path-column photo --label-column species
    unfreeze tune images/ --out run/ --backbone resnet18 --recipe last-blocks --cut layer4 --epochs 20
    unfreeze tune images/ --out run/ --backbone squeezenet1_0 --weights squeezenet1_0.pth --json
    unfreeze tune images/ --out run/ --backbone timm/vit_small_patch14_reg4_dinov2.lvd142m --image-size 224
    unfreeze tune images/ --out run/ --backbone auto --budget-ms 20
    MLFLOW_TRACKING_URI=http://localhost:5000 unfreeze tune images/ --out run/ --track mlflow
    unfreeze tune images/ --out run/ --recipe all --learning-rate 0.003 --ray-workers 2
    unfreeze tune images/ --out small/ --teacher run/ --backbone mobilenet_v3_small --unlabeled more/
    unfreeze tune images/ --out run/ --resume      # continue after Ctrl-C, a crash or a full disk
"""


def tune(
    data: Path,
    *,
    out: Annotated[Path, Parameter(group=OUTPUT)],
    options: Annotated[TuneOptions, Parameter(name="*")] = _DEFAULTS,
    backbones: Annotated[str | None, _BACKBONE] = None,
    budget_ms: Annotated[float | None, _BACKBONE] = None,
    ray: Annotated[RayOptions, Parameter(name="*")] = _NO_RAY,
    overwrite: Annotated[bool, _FLAG] = False,
    resume: Annotated[bool, _FLAG] = False,
    track: Annotated[tuple[TrackerName, ...], Parameter(group=OUTPUT, negative="")] = (),
    json: Annotated[bool, _FLAG] = False,
) -> None:
    """Fine-tune a pretrained network on labeled images.

    The folder OUT receives the weights (model.safetensors), what export needs (run.json), all metrics (metrics.json),
    the loss of every epoch (epochs.jsonl and tensorboard/), every prediction for the validation and test images
    (predictions.csv), suspicious images (label_issues.csv) and, with unfreeze[report], report.html. For several GPUs,
    use torchrun --nproc-per-node N -m unfreeze.tune with the same arguments, or --ray-workers N.

    Args:
        data: folder with one subfolder per class, optionally inside train, val and test folders; or a CSV file with a
            column of image paths, one of labels and, optionally, one of splits.
        out: folder of the run, which is created.
        options: options of the run.
        backbones: with --backbone auto, the backbones to compare: as for `unfreeze compare`, by default "small".
        budget_ms: with --backbone auto, the largest acceptable latency of one image in milliseconds, as for
            `unfreeze compare`.
        ray: options of training with Ray.
        overwrite: replace a run in OUT, finished or not.
        resume: continue the unfinished run in OUT; the result is the same as without the interruption.
        track: also log parameters, metrics and the report, when the run is complete, to MLflow or Weights & Biases, as
            their environment variables say, or to TensorBoard's hyperparameters. Needs unfreeze[mlflow] or
            unfreeze[wandb].
        json: print the metrics as JSON to standard output.

    Raises:
        OptionsError: --backbones or --budget-ms is given without --backbone auto.
    """
    from unfreeze.tune.artifacts.run_folder import check_folder
    from unfreeze.tune.backbones.sources import AUTO
    from unfreeze.tune.device.heap import keep_freed_memory
    from unfreeze.tune.run import fine_tune

    if options.backbone != AUTO and (backbones is not None or budget_ms is not None):
        raise OptionsError("--backbones and --budget-ms require --backbone auto")
    check_trackers(track)
    keep_freed_memory()
    with _resumable(out), TerminalReporter() as reporter:
        if options.backbone == AUTO:
            from unfreeze.compare.auto import choose_backbone
            from unfreeze.compare.options import DEFAULT_PRESET, CompareOptions

            check_folder(out, overwrite=overwrite, resume=resume)
            compare = CompareOptions(backbones=backbones or DEFAULT_PRESET, budget_ms=budget_ms)
            options = choose_backbone(data, out, options, compare, reporter, resume=resume)
        train = partial(_fine_tune_with_ray, ray=ray) if ray.ray_workers else fine_tune
        metrics = train(data, out, options, reporter, overwrite=overwrite, resume=resume)
        shown = _report(out, reporter)
    if json:
        print_json(metrics)
        track_run(track, out)
        return
    RESULTS.print(_table(metrics))
    for item in metrics["skipped"]:
        RESULTS.print(f"skipped {item['path']}: {item['reason']}", markup=False)
    RESULTS.print(f"{metrics['reason']}", markup=False)
    RESULTS.print(f"look: {shown}", markup=False)
    for place in track_run(track, out):
        RESULTS.print(f"logged: {place}", markup=False)
    RESULTS.print(f"next: unfreeze export {out} --repository models --name NAME", markup=False)


def _fine_tune_with_ray(
    data: Path, out: Path, options: TuneOptions, reporter: Reporter, *, ray: RayOptions, overwrite: bool, resume: bool
) -> dict[str, Any]:
    from unfreeze.ray_train.run import fine_tune_with_ray

    return fine_tune_with_ray(data, out, options, ray, reporter, overwrite=overwrite, resume=resume)


def _report(out: Path, reporter: Reporter) -> str:
    """Write the report; return where it is, or how to get one. The run is complete, so that no error fails it now."""
    from unfreeze.pages.libraries import ADVICE, has_libraries

    if not has_libraries():
        return f"for a report with figures and images: {ADVICE}, then unfreeze report {out}"
    from unfreeze.report.write import write_report

    try:
        return str(write_report(out, reporter=reporter))
    except Exception as error:  # noqa: BLE001 - the run is complete and must not look as if it had failed
        return f"the report cannot be written: {first_line(error)}; then unfreeze report {out}"


@contextmanager
def _resumable(out: Path) -> Iterator[None]:
    """Let SIGTERM stop the run like Ctrl-C, and print how to resume if there is anything to resume."""
    from unfreeze.tune.artifacts.resume import ResumeState

    with sigterm_as_interrupt():
        try:
            yield
        except KeyboardInterrupt:
            if ResumeState(out).exists():
                REMARKS.print(f"stopped; run the same command with --resume to continue in {out}", markup=False)
            raise


def _table(metrics: dict[str, Any]) -> Table:
    table = Table("metric", "value", title=f"{metrics['backbone']}: {metrics['recipe']} from {metrics['cut']}")
    images = ", ".join(f"{count:,} {split}" for split, count in metrics["images"].items())
    table.add_row("images", f"{images}; {counted(len(metrics['skipped']), 'file')} skipped")
    table.add_row("classes", f"{len(metrics['labels'])}")
    _add_search(table, metrics)
    if metrics.get("distillation"):
        _add_teacher(table, metrics["distillation"])
    table.add_row("validation accuracy", f"{_both(metrics, 'val')}{_coverage(metrics, 'val')}")
    table.add_row("probe alone", _both(metrics, "probe_val"))
    if "test_accuracy" in metrics:
        table.add_row("test accuracy", f"{_both(metrics, 'test')}{_coverage(metrics, 'test')}")
    error = metrics["calibration_error"]
    table.add_row("calibration error", f"{error['after']:.3f} ({error['before']:.3f} before temperature scaling)")
    if metrics["abstain"]:
        table.add_row("abstention", _abstention(metrics["abstain"]))
    if metrics.get("ood"):
        table.add_row("out of distribution", _foreign(metrics["ood"]))
    table.add_row("most confused class", Text(_most_confused(metrics)))
    table.add_row("trained parameters", f"{metrics['trained_parameters']:,} of {metrics['parameters']:,}")
    table.add_row("duration", f"{metrics['seconds']:.1f} s ({metrics['device']}, {metrics['precision']})")
    return table


def _both(metrics: dict[str, Any], split: str) -> str:
    """Return accuracy and balanced accuracy, each with its standard error."""
    names = f"{split}_accuracy", f"{split}_balanced_accuracy"
    plain, balanced = (f"{metrics[name]:.4f} ± {metrics['standard_errors'][name]:.4f}" for name in names)
    return f"{plain}; balanced {balanced}"


def _coverage(metrics: dict[str, Any], split: str) -> str:
    """Return how many classes a metric covers, if not all."""
    covered, classes = metrics[f"{split}_classes"], len(metrics["labels"])
    word = "validation" if split == "val" else split
    return "" if covered == classes else f" ({covered} of {classes} classes have {word} images)"


def _add_search(table: Table, metrics: dict[str, Any]) -> None:
    """Add the cross-validated accuracies that the choice is based on."""
    for depth in metrics["survey"]:
        table.add_row(f"frozen features at {depth['cut']}", _accuracy(depth))
    for score in metrics["candidates"]:
        trained = f" from {score['cut']} at learning rate {score['learning_rate']:g}" if score["learning_rate"] else ""
        table.add_row(f"cross-validated: {score['recipe']}{trained}", _accuracy(score))


def _add_teacher(table: Table, distillation: dict[str, Any]) -> None:
    """Add whether the student learned from a teacher, and what that is based on."""
    name = " ".join(filter(None, [distillation["name"], distillation["version"]]))
    setting = f"temperature {distillation['temperature']:g}, weight {distillation['weight']:g}"
    images = counted(distillation["unlabeled_images"], "image")
    kept = "its answers are trained on" if distillation["kept"] else "not followed: the student alone is kept"
    table.add_row("teacher", Text(f"{name} ({distillation['backbone']}): {kept} ({setting}; {images} without labels)"))
    for score, title in (("own", "alone"), ("taught", "taught")):
        if distillation[score]:
            table.add_row(f"cross-validated: {title}", _accuracy(distillation[score]))


def _accuracy(score: dict[str, Any]) -> str:
    plain = f"{score['accuracy']:.3f} ± {score['standard_error']:.3f}"
    return f"{plain}; balanced {score['balanced_accuracy']:.3f} ± {score['balanced_standard_error']:.3f}"


def _foreign(ood: dict[str, Any]) -> str:
    found, (low, high) = ood["comparison"], ood["false_alarms_interval"]
    auroc = "not compared: fewer than 3 classes"
    if found is not None:
        own, baseline = (f"{found['aurocs'][method]:.3f}" for method in (ood["method"], BASELINE))
        auroc = f"AUROC {own} on classes left out" + (f" ({BASELINE}: {baseline})" if ood["method"] != BASELINE else "")
    return f"{ood['method']}, {auroc}; {low:.1%} to {high:.1%} false alarms"


def _abstention(abstain: dict[str, Any]) -> str:
    if abstain["threshold"] is None:
        return str(abstain["message"])
    return (
        f"below a confidence of {abstain['threshold']:.3f}; {abstain['coverage']:.0%} of the images are above, "
        f"{abstain['precision']:.3f} of these correct"
    )


def _most_confused(metrics: dict[str, Any]) -> str:
    """Describe the class with the lowest recall, and the class that it is most often confused with."""
    labels, confusion = metrics["labels"], metrics["confusion"]
    validated = [index for index, row in enumerate(confusion) if sum(row)]
    worst = min(validated, key=lambda index: float(metrics["per_class"][labels[index]]["recall"]))
    scores = metrics["per_class"][labels[worst]]
    text = f"{labels[worst]}: recall {scores['recall']:.2f}, precision {scores['precision']:.2f}"
    others = [0 if index == worst else count for index, count in enumerate(confusion[worst])]
    return f"{text}, most often confused with {labels[others.index(max(others))]}" if any(others) else text
