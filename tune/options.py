"""What a tuning run may be told, validated once."""

import math
from collections.abc import Container
from dataclasses import dataclass
from typing import Literal

from unfreeze.contract.errors import OptionsError
from unfreeze.contract.options import check_ranges
from unfreeze.tune.recipes.registry import ALL_BLOCKS, AUTO, LAST_BLOCKS, LINEAR, PROBE, SCRATCH, STEM_HEAD, RecipeName

PrecisionName = Literal["auto", "bf16", "fp16", "fp32"]
_SHOWN = 800
_FEWEST_EPOCHS, _MOST_EPOCHS = 3, 8
_SMALLEST_BATCH, _LARGEST_BATCH = 16, 64
_STEPS = 100


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """How to tune.

    Args:
        backbone: torchvision's name of the network.
        weights: "default" (downloaded by torchvision), "builtin", "none" (random), or a file.
        recipe: "auto" (chosen on evidence); "probe", "one-vs-rest" or "svm" (linear, on frozen features);
            "last-blocks" (those behind the cut), "stem-head" (the first block), "all", or "scratch" (from random
            weights).
        cut: the first block that "last-blocks" trains, or "auto" (chosen by cross-validation). With the recipe
            "auto", a block's name asks for "last-blocks", "head" for "probe", and "all" for "all".
        epochs: passes over the images for the blocks; by default 3, or up to 8 where there are few images; twice as
            many for "scratch".
        patience: stop early where the loss on a tenth of the training images, put aside for that, has not fallen
            for so many epochs; 0 never stops.
        seed: of everything random.
        device: "auto", "cpu" or "cuda".
        precision: of training and of the frozen blocks: "bf16", "fp16" (on GPUs alone) or "fp32"; "auto" takes bf16
            where the hardware has it, else fp16 on a GPU and fp32 on a CPU. Weights and evaluation are float32 always,
            and so is training by grouped convolutions on CPUs.
        views: versions of each image in the cache: the image as served, and random crops, turns and colors of
            it, flipped where `flip` lets them.
        flip: whether images are flipped at random, which "auto" finds out: are they, flipped, still told?
            Activations never are.
        batch_size: images a step; by default 16, and up to 64 where there are thousands.
        optimizer: "adamw", or "sgd" with Nesterov's momentum.
        learning_rate: of the last block, at its highest; blocks nearer to the input get less. Without it, it is a
            gentle one, or a bold one where cross-validation says so: it is asked where a cut or "all" was asked for,
            and where images are unlike those that the network knows.
        weight_decay: for weights; norms and biases get none.
        label_smoothing: how much probability is spread over all classes, 0 to 1.
        mixup: parameter of the beta distribution by which pairs of activations are mixed; 0 mixes none.
        class_weights: "balanced" makes every class count the same, however few its images.
        val_fraction: how much of the training images validates where there is no val folder, 0 to 1.
        cache_gb: how much room cached activations may take, in GB: on the GPU, in main memory where that would take
            more than half of what is free there, or in a file in the run's folder where memory has no more either. Two
            may be kept at once; where one would take more than half of it, the frozen blocks run anew in every epoch.
        abstain_precision: find the confidence from which on answers are right this often, 0 to 1.
        strict: take every problem of the data as an error.

    Raises:
        OptionsError: a value is out of its range, or two contradict each other.
    """

    backbone: str = "mobilenet_v3_small"
    weights: str = "default"
    recipe: RecipeName = AUTO
    cut: str = "auto"
    epochs: int | None = None
    patience: int = 0
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: PrecisionName = "auto"
    views: int = 1
    flip: Literal["auto", "yes", "no"] = "auto"
    batch_size: int | None = None
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float | None = None
    weight_decay: float = 0.02
    label_smoothing: float = 0.1
    mixup: float = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    val_fraction: float = 0.2
    cache_gb: float = 8.0
    abstain_precision: float | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        """Validate once, where it is built."""
        ranges = {
            "epochs": (1, 10_000),
            "patience": (0, 10_000),
            "views": (1, 64),
            "batch_size": (2, 65_536),
            "seed": (0, 2**32 - 1),
            "learning_rate": (1e-8, 10.0),
            "weight_decay": (0.0, 10.0),
            "label_smoothing": (0.0, 0.9),
            "mixup": (0.0, 10.0),
            "val_fraction": (0.01, 0.9),
            "cache_gb": (0.0, 100_000.0),
            "abstain_precision": (0.01, 0.9999),
        }
        check_ranges(vars(self), ranges)
        if self.cut != "auto" and self.recipe != AUTO and self.cut not in self._fitting_cuts():
            raise OptionsError(
                f"--cut {self.cut} does not go with --recipe {self.recipe}; leave one of them out, or use --recipe "
                f"{LAST_BLOCKS} with a block"
            )

    @property
    def asked_recipe(self) -> str:
        """The recipe that was asked for, be it by a cut."""
        if self.recipe != AUTO or self.cut == "auto":
            return self.recipe
        return {"head": PROBE, "all": ALL_BLOCKS}.get(self.cut, LAST_BLOCKS)

    def _fitting_cuts(self) -> Container[str]:
        if self.recipe in LINEAR:
            return ("head",)
        if self.recipe in (ALL_BLOCKS, SCRATCH):
            return ("all",)
        return () if self.recipe == STEM_HEAD or self.cut == "head" else (self.cut,)

    def epochs_for(self, images: int, patience: int = 1) -> int:
        """Give the number of epochs.

        Args:
            images: to train on.
            patience: how many times the usual number, where none was asked for.
        """
        if self.epochs is not None:
            return self.epochs
        return patience * min(_MOST_EPOCHS, max(_FEWEST_EPOCHS, -(-_SHOWN // images)))

    def batch_size_for(self, images: int) -> int:
        """Give the number of images a step, a power of two where none was asked for: many small steps for few."""
        if self.batch_size is not None:
            return self.batch_size
        wanted = 2 ** round(math.log2(max(1, images / _STEPS)))
        return min(_LARGEST_BATCH, max(_SMALLEST_BATCH, wanted))
