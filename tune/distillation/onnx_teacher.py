"""A teacher that is an exported model."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from unfreeze.contract.arrays import Float32, UInt8
from unfreeze.contract.errors import ModelError, first_line
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.contract.model.manifest import INPUT, OUTPUT, Manifest
from unfreeze.contract.model.model_file import ModelFile, read_model
from unfreeze.contract.model.onnxruntime_options import disabled_optimizers
from unfreeze.tune.distillation.teacher import LEAST_PROBABILITY, TeacherIdentity
from unfreeze.tune.features.stored import describe_machine

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_CPU_BATCH, _CUDA_BATCH = 4, 64


@dataclass(frozen=True, kw_only=True)
class OnnxTeacher:
    """An exported model in ONNX Runtime.

    Args:
        identity: which model it is.
        manifest: of the model.
        session: that runs it.
        device: that it runs on.
    """

    identity: TeacherIdentity
    manifest: Manifest
    session: "InferenceSession"
    device: torch.device

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of its probabilities."""
        return self.manifest.labels

    @property
    def spec(self) -> PreprocessSpec:
        """How it prepares images."""
        return self.manifest.preprocess

    @property
    def batch(self) -> int:
        """Images that it classifies at a time."""
        return min(self.manifest.max_batch, _CPU_BATCH if self.device.type == "cpu" else _CUDA_BATCH)

    def describe(self) -> dict[str, Any]:
        """Describe everything that answers depend on besides the image and its view."""
        import onnxruntime

        return {
            "weights": self.identity.sha256,
            "preprocess": asdict(self.spec),
            "precision": self.manifest.precision,
            "device": self.device.type,
            "batch": self.batch,
            "onnxruntime": onnxruntime.__version__,
            "provider": self.session.get_providers()[0],
            **describe_machine(self.device),
        }

    def answer(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Float32[np.ndarray, "n c"]:
        """Return the logarithms of the calibrated probabilities of prepared images."""
        (found,) = self.session.run([OUTPUT], {INPUT: pixels})
        answers: np.ndarray = np.log(np.maximum(found, np.float32(LEAST_PROBABILITY)))
        return answers


def open_model(path: Path, device: torch.device) -> OnnxTeacher:
    """Open an exported model.

    Args:
        path: of a `model.onnx`.
        device: to run it on; the CPU if ONNX Runtime cannot use the GPU.

    Raises:
        ModelError: the file is not an exported model, was changed, or ONNX Runtime is not installed.
    """
    model = read_model(path)
    session = _open_session(model, device)
    used = device if session.get_providers()[0] == _PROVIDERS[device.type] else torch.device("cpu")
    version = path.absolute().parent
    published = version.name.isdecimal()
    identity = TeacherIdentity(
        name=version.parent.name if published else path.name,
        version=version.name if published else "",
        backbone=model.manifest.provenance.backbone,
        sha256=model.manifest.sha256,
    )
    return OnnxTeacher(identity=identity, manifest=model.manifest, session=session, device=used)


def _open_session(model: ModelFile, device: torch.device) -> "InferenceSession":
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ModelError(
            f"the teacher {model.path} needs ONNX Runtime, which is not installed: pip install 'unfreeze[cpu]', or use "
            "the folder of its run as --teacher"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    wanted = [_PROVIDERS[device.type], _PROVIDERS["cpu"]] if device.type == "cuda" else [_PROVIDERS["cpu"]]
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(
            model.content,
            options,
            providers=providers,
            disabled_optimizers=disabled_optimizers(model.manifest.precision),
        )
    except Exception as error:  # ONNX Runtime's errors have no common base class
        raise ModelError(f"{model.path} cannot be loaded by ONNX Runtime: {first_line(error)}") from error
