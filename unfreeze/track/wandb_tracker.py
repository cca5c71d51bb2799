"""Weights & Biases: runs, and exported models as artifacts.

Where it logs to is set up as usual: `wandb login`, or `WANDB_MODE=offline` and `wandb sync` later; `WANDB_PROJECT`.
"""

import os

import wandb

from unfreeze.export.run import Published
from unfreeze.track.tracked_run import TrackedRun

_WANDB = "wandb"
_PROJECT = "unfreeze"


def log_run(run: TrackedRun) -> str:
    """Log parameters, metrics by epoch, and the files of a run."""
    with _started(run, {}) as started:
        started.config.update(run.parameters)
        for number, epoch in enumerate(run.epochs, start=1):
            started.log(epoch, step=number)
        started.summary.update(run.metrics)
        files = wandb.Artifact(_safe(f"{run.name}-files"), type="run")
        for file in run.files:
            files.add_file(str(file))
        started.log_artifact(files)
        run.remember(_WANDB, {"id": started.id, "project": started.project})
        return _place(started)


def log_model(run: TrackedRun, published: Published) -> str:
    """Log an exported version, with its model card and checksums, as an artifact of type "model"."""
    manifest = published.manifest
    with _started(run, run.known[_WANDB]) as started:
        described = {"labels": list(manifest.labels), "sha256": manifest.sha256, "precision": manifest.precision}
        model = wandb.Artifact(_safe(published.name), type="model", metadata=described)
        model.add_dir(str(published.path.parent))
        started.log_artifact(model, aliases=[f"version-{published.version}"])
        return _place(started)


def _started(run: TrackedRun, known: dict[str, str]) -> wandb.Run:
    """Start a run, or go on with a known one."""
    return wandb.init(
        project=known.get("project") or os.environ.get("WANDB_PROJECT", _PROJECT),
        name=run.name,
        id=known.get("id"),
        resume="allow",
        settings=wandb.Settings(console="off", silent=True),
    )


def _place(run: wandb.Run) -> str:
    return f"W&B run {run.url}" if run.url else f"W&B run {run.id}, offline in {run.dir}"


def _safe(name: str) -> str:
    """Return a name with the characters that artifacts may have."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
