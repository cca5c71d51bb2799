"""What the GPU benchmark measures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import cyclopts

from bench.gpu.part import Setting

_Names = Annotated[tuple[str, ...], cyclopts.Parameter(consume_multiple=True)]
_Numbers = Annotated[tuple[int, ...], cyclopts.Parameter(consume_multiple=True)]
_Flag = Annotated[bool, cyclopts.Parameter(negative="")]
_BACKBONES, _TUNED = ("resnet50", "mobilenet_v3_small"), ("resnet50", "vgg16")


@dataclass(frozen=True, kw_only=True)
class GpuOptions:
    """What to measure.

    Args:
        device: "cpu" runs the same steps without a GPU and evaluates no promise.
        seconds: total time; parts are shortened or left out to keep it.
        tests: run the tests marked `gpu` first.
        quick: defaults of small networks, few requests in flight and short measurements.
        backbones: networks to serve, by torchvision's names.
        tuned: networks to train.
        precisions: precisions of the models.
        batches: batch sizes for the raw runtime; the largest is the models' maximum.
        concurrency: requests in flight.
        images: folder of labeled images; textures are drawn without it.
        each_s: longest duration of one measurement, in seconds.
        json: print JSON instead of a table.
    """

    device: Literal["cuda", "cpu"] = "cuda"
    seconds: float = 400.0
    tests: _Flag = False
    quick: _Flag = False
    backbones: _Names = ()
    tuned: _Names = ()
    precisions: _Names = ("fp32", "fp16", "int8")
    batches: _Numbers = ()
    concurrency: _Numbers = ()
    images: Path | None = None
    each_s: float | None = None
    json: _Flag = False

    def setting(self, folder: Path) -> Setting:
        """Fill in defaults.

        Args:
            folder: receives images, models and findings.
        """
        quick = self.quick
        return Setting(
            folder=str(folder),
            device=self.device,
            backbones=self.backbones or (("mobilenet_v3_small", "resnet18") if quick else _BACKBONES),
            tuned=self.tuned or (("resnet18",) if quick else _TUNED),
            precisions=self.precisions,
            batches=self.batches or ((1, 8) if quick else (1, 8, 32, 64, 128)),
            concurrency=self.concurrency or ((1, 4) if quick else (1, 16, 64, 256)),
            images="" if self.images is None else str(self.images.absolute()),
            each_s=self.each_s or (1.0 if quick else 2.0),
            drawn=4 if quick else 6,
            trained=16 if quick else 1024,
            train_batch=8 if quick else 64,
        )
