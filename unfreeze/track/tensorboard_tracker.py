"""TensorBoard: parameters and the result of a run beside its losses, which every run writes to `tensorboard/`."""

from tensorboardX import SummaryWriter

from unfreeze.export.run import Published
from unfreeze.track.tracked_run import TrackedRun
from unfreeze.tune.artifacts.journal import EVENTS_FOLDER

_TENSORBOARD = "tensorboard"


def log_run(run: TrackedRun) -> str:
    """Log parameters and metrics for the tab of hyperparameters."""
    folder = run.folder / EVENTS_FOLDER
    with SummaryWriter(str(folder), filename_suffix=".result") as writer:
        metrics = {f"result/{name}": value for name, value in run.metrics.items()}
        writer.add_hparams(run.parameters, metrics, name=".")
    run.remember(_TENSORBOARD, {})
    return f"TensorBoard: tensorboard --logdir {folder}"


def log_model(run: TrackedRun, published: Published) -> str:
    """Log which file was exported, and how it compares with the trained network, as text."""
    folder, proof = run.folder / EVENTS_FOLDER, published.manifest.proof
    with SummaryWriter(str(folder), filename_suffix=f".model-{published.version}") as writer:
        text = f"{published.path} ({published.manifest.precision}, SHA-256 {published.manifest.sha256})"
        writer.add_text("model", text, published.version)
        writer.add_scalar("model/accuracy", proof.accuracy, published.version)
        writer.add_scalar("model/largest_difference", proof.largest_difference, published.version)
    return f"TensorBoard: tensorboard --logdir {folder}"
