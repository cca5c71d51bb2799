"""The model of a job: which one it is, and what workers on other machines need of it."""

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from unfreeze.contract.cores import usable_cores
from unfreeze.contract.model.engine import ENGINE_FILE, FACTS_FILE
from unfreeze.contract.model.onnx_metadata import read_manifest
from unfreeze.contract.model.repository import find_model, read_published
from unfreeze.serve.runtimes import ModelFile, Runtime, RuntimeOptions, open_runtime, read_model
from unfreeze.serve.runtimes.auto import open_named
from unfreeze.serve.runtimes.registry import AUTO, find_runtime

_TENSORRT = "tensorrt"
_CPU_BATCH, _GPU_BATCH = 32, 128
_GPU_INSTANCES = 2


@dataclass(frozen=True, kw_only=True)
class JobModel:
    """A model and how it is executed.

    Args:
        path: of the file, for messages.
        name: of the model in its repository; of the file elsewhere.
        version: in its repository; None elsewhere.
        sha256: of the model file, as in its manifest.
        device: the runtime's name.
        batch: images in a batch.
        content: of the file.
        engine: content of the engine's files next to it, by name; none for other devices than TensorRT.
    """

    path: Path
    name: str
    version: int | None
    sha256: str
    device: str
    batch: int
    content: bytes = field(repr=False)
    engine: dict[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def uses_cpu(self) -> bool:
        """Whether the model is executed on the CPU."""
        return find_runtime(self.device).uses_cpu


def read_job_model(path: Path, device: str) -> JobModel:
    """Read a model file and, for TensorRT, the engine next to it; "auto" becomes the runtime that it chooses here.

    All workers then execute the same one, whichever machines they are on, and a job that is continued does, too.

    Args:
        path: a `model.onnx`, the folder of a version, or the folder of a model, for its newest version.
        device: the runtime's name.

    Raises:
        OptionsError: there is no such runtime.
        ModelError: there is no model or no engine, or one was changed.
    """
    uses_cpu = find_runtime(device, "--device").uses_cpu
    model = read_model(find_model(path))
    batch = min(model.manifest.max_batch, _CPU_BATCH if uses_cpu else _GPU_BATCH)
    if device == AUTO:
        opened = open_named(model, device, _runtime_options(batch, uses_cpu=uses_cpu))
        device = opened.name
        opened.runtime.close()
    version = model.path.resolve().parent
    is_published = version.name.isascii() and version.name.isdigit()
    engine = (ENGINE_FILE, FACTS_FILE) if device == _TENSORRT else ()
    return JobModel(
        path=model.path,
        name=version.parent.name if is_published else model.path.stem,
        version=int(version.name) if is_published else None,
        sha256=model.manifest.sha256,
        device=device,
        batch=batch,
        content=model.content,
        engine={name: read_published(model.path.with_name(name)) for name in engine},
    )


def open_job_model(model: JobModel) -> Runtime:
    """Load a model for execution by several threads, each with one core.

    A number of threads that is always the same gives results that are always the same.

    Raises:
        ModelError: the runtime is not available here, or cannot execute the model.
    """
    options = _runtime_options(model.batch, uses_cpu=model.uses_cpu)
    if not model.engine:
        file = ModelFile(path=model.path, content=model.content, manifest=read_manifest(model.content))
        return open_runtime(file, model.device, options)
    with TemporaryDirectory(prefix="unfreeze-") as folder:
        for name, content in ({model.path.name: model.content} | model.engine).items():
            (Path(folder) / name).write_bytes(content)
        return open_runtime(Path(folder) / model.path.name, model.device, options)


def _runtime_options(batch: int, *, uses_cpu: bool) -> RuntimeOptions:
    return RuntimeOptions(threads=1, instances=usable_cores() if uses_cpu else _GPU_INSTANCES, max_batch=batch)
