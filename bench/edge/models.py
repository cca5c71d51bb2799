"""The models that are taken to the device: one network in three precisions, int8 for ARM's kernels."""

from pathlib import Path

from unfreeze.contract.model.repository import ModelRepository
from unfreeze.contract.reporting import Reporter
from unfreeze.export.options import ExportOptions
from unfreeze.export.run import export_model
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.run import fine_tune

PRECISIONS = ("fp32", "fp16", "int8")


def publish_precisions(data: Path, folder: Path, backbone: str, weights: str, reporter: Reporter) -> dict[str, Path]:
    """Tune and export; take what an earlier call has made.

    Args:
        data: folder of labeled images.
        folder: receives the run and the models.
        backbone: of the network.
        weights: pretrained weights, as for `unfreeze tune`.
        reporter: shows progress.

    Returns:
        The file of each precision.
    """
    name = backbone.replace("/", "-")
    run, repository = folder / f"run-{name}", ModelRepository(folder / "models")
    if not (run / "run.json").exists():
        fine_tune(data, run, TuneOptions(backbone=backbone, weights=weights), reporter)
    files = {}
    for precision in PRECISIONS:
        published = f"{name}-{precision}"
        if not repository.versions(published):
            options = ExportOptions(precision=precision, target="arm", max_drop=100)
            export_model(run, repository.root, published, options, data=data, reporter=reporter)
        files[precision] = repository.root / published / "1" / "model.onnx"
    return files
