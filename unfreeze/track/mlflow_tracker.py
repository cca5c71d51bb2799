"""MLflow: runs, and exported models in its registry.

Where it logs to is set up as usual, by `MLFLOW_TRACKING_URI` and `MLFLOW_EXPERIMENT_NAME`.
"""

import mlflow
import mlflow.onnx
import numpy as np
import onnx
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from unfreeze.contract.model.manifest import INPUT, Manifest
from unfreeze.export.run import Published
from unfreeze.track.tracked_run import TrackedRun

_MLFLOW = "mlflow"


def log_run(run: TrackedRun) -> str:
    """Log parameters, metrics by epoch, and the files of a run."""
    with mlflow.start_run(run_name=run.name) as started:
        mlflow.log_params(run.parameters)
        for number, epoch in enumerate(run.epochs, start=1):
            mlflow.log_metrics(epoch, step=number)
        mlflow.log_metrics(run.metrics)
        for file in run.files:
            mlflow.log_artifact(str(file))
    run.remember(_MLFLOW, {"run_id": started.info.run_id, "tracking_uri": mlflow.get_tracking_uri()})
    return f"MLflow run {started.info.run_id} at {mlflow.get_tracking_uri()}"


def log_model(run: TrackedRun, published: Published) -> str:
    """Log an exported model to the run, and register it under its name.

    The bytes of the registered file differ from those that were published, because MLflow writes it again; a server
    takes it from the artifacts `published`, which are unchanged.
    """
    manifest, known = published.manifest, run.known[_MLFLOW]
    mlflow.set_tracking_uri(known["tracking_uri"])
    with mlflow.start_run(run_id=known["run_id"]):
        mlflow.log_artifacts(str(published.path.parent), "published")
        logged = mlflow.onnx.log_model(
            onnx.load(str(published.path)),
            name=published.name.replace(".", "-"),  # MLflow allows dots in registered names alone
            signature=_signature(manifest),
            registered_model_name=published.name,
            metadata={"labels": list(manifest.labels), "sha256": manifest.sha256, "version": published.version},
        )
    return f"MLflow model {published.name}, version {logged.registered_model_version}"


def _signature(manifest: Manifest) -> ModelSignature:
    images = TensorSpec(np.dtype(np.uint8), (-1, *manifest.preprocess.shape), INPUT)
    outputs = [TensorSpec(np.dtype(np.float32), (-1, width), name) for name, width in manifest.outputs.items()]
    return ModelSignature(inputs=Schema([images]), outputs=Schema(outputs))
