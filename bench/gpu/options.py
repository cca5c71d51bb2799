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
        device: "cpu" measures the same without a GPU, and judges nothing.
        seconds: for everything; parts that would run over are shortened or left out.
        tests: run the tests marked `gpu` first.
        quick: small networks, few requests in flight and short measurements, where nothing else is said.
        backbones: whose models are served, by torchvision's names.
        tuned: those that are trained.
        precisions: of the models.
        batches: sizes for the raw runtime; the largest is the models' own.
        concurrency: requests in flight.
        images: folder of labeled images; without it, textures are drawn.
        each_s: the longest that one measurement may take, in seconds.
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
        """Fill in what was not said.

        Args:
            folder: takes images, models and findings.
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
