"""Options of a tuning run, validated at construction."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from unfreeze.contract.errors import OptionsError
from unfreeze.contract.images.preprocess import check_deep_range
from unfreeze.contract.options import check_ranges
from unfreeze.tune.recipes.registry import (
    ALL_BLOCKS,
    AUTO,
    LAST_BLOCKS,
    PROBE,
    is_teachable,
    recipe_help,
    recipe_names,
    recipe_of,
)

AUTO_RANGE, FULL_RANGE = "auto", "full"  # of --deep-range
PrecisionName = Literal["auto", "bf16", "fp16", "fp32"]
Pooling = Literal["stock", "class-mean"]
STOCK: Pooling = "stock"
CLASS_MEAN: Pooling = "class-mean"
Metric = Literal["accuracy", "balanced"]
ACCURACY: Metric = "accuracy"
BALANCED: Metric = "balanced"

DATA = Group("Data", sort_key=1)
BACKBONE = Group("Backbone", sort_key=2)
RECIPE = Group("Recipe", sort_key=3)
TRAINING = Group("Training", sort_key=4)
HARDWARE = Group("Hardware and memory", sort_key=5)
TEACHER = Group("Teacher", sort_key=6)
OUTPUT = Group("Output", sort_key=7)

_data, _backbone, _training, _hardware, _teacher, _output = (
    Parameter(group=group) for group in (DATA, BACKBONE, TRAINING, HARDWARE, TEACHER, OUTPUT)
)
DEFAULT_STORE_GB = 10.0
_IMAGES_SEEN = 800  # over all epochs, at least
_FEWEST_EPOCHS, _MOST_EPOCHS = 3, 8
_SMALLEST_BATCH, _LARGEST_BATCH = 16, 64
_STEPS_PER_EPOCH = 100
_IMBALANCED = 10  # times as many images of the largest class as of the smallest

_RANGES: dict[str, tuple[float, float]] = {
    "epochs": (1, 10_000),
    "patience": (0, 10_000),
    "views": (1, 64),
    "image_size": (32, 4096),
    "crop_pct": (0.1, 1.0),
    "batch_size": (2, 65_536),
    "seed": (0, 2**32 - 1),
    "learning_rate": (1e-8, 10.0),
    "layer_decay": (0.01, 1.0),
    "lora_rank": (1, 1024),
    "weight_decay": (0.0, 10.0),
    "label_smoothing": (0.0, 0.9),
    "mixup": (0.0, 10.0),
    "val_fraction": (0.01, 0.9),
    "cache_gb": (0.0, 100_000.0),
    "store_gb": (0.0, 100_000.0),
    "abstain_precision": (0.01, 0.9999),
    "ood_false_alarms": (0.0, 0.5),
    "temperature": (0.5, 100.0),
    "teacher_weight": (0.01, 1.0),
}
_NEED_TEACHER = ("unlabeled", "temperature", "teacher_weight")


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """Options of a tuning run.

    Args:
        backbone: `NAME` of a torchvision model, `timm/NAME`, `hf-hub:ORG/NAME` (a timm model on the Hugging Face Hub),
            or `package.module:function`, a function that returns your own torch.nn.Module. `unfreeze tune` also
            accepts "auto": the one that `unfreeze compare` recommends.
        weights: "default" (downloaded by torchvision or timm, or the function's own), "builtin", "none" (random), or a
            file or folder.
        backbone_reason: why a comparison recommended this backbone, to be recorded; empty if it was requested.
        recipe: what to train: "auto", or the name of a recipe, see `unfreeze.tune.recipes`.
        pooling: what the head pools of a vision transformer: "stock" (as the backbone does, often the class token), or
            "class-mean" (the class token and the mean of the patches' tokens).
        cut: first block that "last-blocks" trains, or "auto" (chosen by cross-validation). With the recipe "auto", the
            name of a block selects "last-blocks", "head" selects "probe", and "all" selects "all". For "lora", the
            first block with adapters; "auto" is "all".
        metric: what candidates are compared by, and the result with the probe: "accuracy", or "balanced" for balanced
            accuracy, the mean recall of the classes. "auto" is balanced if the largest class has more than 10 times
            as many training images as the smallest, or with balanced class weights. Both are always reported.
        epochs: passes over the images when blocks are trained. By default 3, up to 8 when there are few images, and
            twice as many for "scratch".
        patience: stop early after this many epochs without a lower loss on a tenth of the training images, which is
            held out for that. 0 never stops early.
        seed: random seed.
        device: "auto", "cpu" or "cuda".
        precision: numeric type of training and of the frozen blocks: "bf16", "fp16" (GPUs only) or "fp32". "auto" uses
            bf16 where the hardware supports it, else fp16 on a GPU and fp32 on a CPU. Weights and evaluation are always
            float32, and so is training of grouped convolutions on CPUs.
        views: cached versions per image: the image as served, and randomly cropped, rotated and recolored ones,
            which are also flipped where `flip` allows it.
        flip: flip training images horizontally at random. "auto" first tests whether flipped images are still
            classified correctly. Cached activations are never flipped.
        quarter_turns: rotate training images by random multiples of 90 degrees, if the first block is trained. Cached
            activations are never rotated.
        image_size: side of the square that the network sees, in pixels. By default that of the weights.
        crop_pct: side of that square as a share of the resized image's shorter side, as in timm. By default that of the
            weights; 1 does not crop square images.
        batch_size: images per step. By default 16, and up to 64 for thousands of images.
        optimizer: "adamw", or "sgd" with Nesterov momentum.
        learning_rate: peak learning rate of the last block; earlier blocks use lower ones. By default 0.0005; 0.003 is
            also tried by cross-validation when `cut` or the recipe "all" is given, and when the images are unlike those
            of pretraining. 0.003 for "lora".
        layer_decay: learning rate of a block as a share of that of the next one, 0.01 to 1. By default 1 for "lora",
            and otherwise such that the rate falls to 0.3 over all blocks. Vision transformers are often trained with
            0.65 to 0.75.
        lora_rank: rank of the adapters that "lora" trains.
        weight_decay: weight decay; normalization layers and biases are not decayed.
        label_smoothing: probability spread over all classes, 0 to 0.9.
        mixup: parameter of the beta distribution of mixup, which is applied to activations at the cut. 0 turns it off.
        class_weights: "balanced" gives every class the same total weight, however few images it has.
        val_fraction: share of the training images to validate on when there is no val split, 0.01 to 0.9.
        cache_gb: memory limit of the cached activations in GB. They are kept on the GPU, in main memory if they need
            more than half of the free GPU memory, or in a file in the run's folder if they need more than half of the
            free main memory. All caches that exist at a time share the limit. What it does not hold is computed again
            in every epoch, for those images alone.
        store_gb: size limit of the feature store in the user's cache folder in GB: activations and features of frozen
            blocks, which later runs read instead of computing them again. What was not used for the longest time is
            deleted first; 0 neither reads nor writes. `unfreeze cache` shows and clears it.
        abstain_precision: find the confidence above which this share of the answers is correct, 0.01 to 0.9999.
        ood_false_alarms: report images unlike the training images as out of distribution, and wrongly this share of
            images like the validation images, 0 to 0.5; 0 reports none.
        strict: treat problems of the data as errors.
        path_column: column of the image paths in a CSV file. By default one with a usual name, such as path, image or
            filename.
        label_column: column of the labels in a CSV file. By default one with a usual name, such as label, class or
            target.
        split_column: column of the splits in a CSV file. By default one with a usual name, such as split or subset.
        drop_contradictions: leave out images that a CSV file lists with more than one label or split, instead of
            failing.
        split_folders: "auto" uses folders named train, val and test as splits if there is one named train; "none" uses
            every folder as a class.
        drop_issues: leave out the training images that this FILE lists, the label_issues.csv of an earlier run, after
            you have looked at them and removed the lines of images that are right.
        relabel: give the training images that this FILE lists the labels in its column suggested_label.
        deep_range: values of gray images with more than 8 bits that become black and white: "auto" (from the bits
            that the training images use: 0 to 4095 for 12 of 16 bits), "full" (all 16 bits), or LOW,HIGH, with
            `=` before a negative LOW.
        teacher: train on the answers of this model as well as on the labels: folder of a run, a model.onnx, or folder
            of a published version. It has the same labels, in any order. What it teaches is kept only if it makes the
            student better in cross-validation on the training images.
        unlabeled: FOLDER of images without labels, at any depth, which are trained on with the answers of the teacher
            alone. Copies of images of the dataset are left out.
        temperature: that softens the answers of teacher and student, 0.5 to 100. By default 1, 2 or 4, by
            cross-validation on frozen features.
        teacher_weight: weight of the teacher's answers in the loss, 0.01 to 1; the labels have the rest. By default 0.5
            or 0.9, by cross-validation on frozen features.

    Raises:
        OptionsError: a value is out of its range, a recipe is unknown, or the recipe and the cut contradict each other.
    """

    backbone: Annotated[str, _backbone] = "mobilenet_v3_small"
    weights: Annotated[str, _backbone] = "default"
    backbone_reason: Annotated[str, Parameter(parse=False)] = ""
    recipe: Annotated[str, Parameter(group=RECIPE, choices=(AUTO, *recipe_names()), help=recipe_help())] = AUTO
    pooling: Annotated[Pooling, Parameter(group=RECIPE)] = STOCK
    cut: Annotated[str, Parameter(group=RECIPE)] = "auto"
    metric: Annotated[Literal["auto", "accuracy", "balanced"], Parameter(group=RECIPE)] = "auto"
    epochs: Annotated[int | None, _training] = None
    patience: Annotated[int, _training] = 0
    seed: Annotated[int, _training] = 0
    device: Annotated[Literal["auto", "cpu", "cuda"], _hardware] = "auto"
    precision: Annotated[PrecisionName, _hardware] = "auto"
    views: Annotated[int, _data] = 1
    flip: Annotated[Literal["auto", "yes", "no"], _data] = "auto"
    quarter_turns: Annotated[bool, Parameter(group=DATA, negative="")] = False
    image_size: Annotated[int | None, _data] = None
    crop_pct: Annotated[float | None, _data] = None
    batch_size: Annotated[int | None, _training] = None
    optimizer: Annotated[Literal["adamw", "sgd"], _training] = "adamw"
    learning_rate: Annotated[float | None, _training] = None
    layer_decay: Annotated[float | None, _training] = None
    lora_rank: Annotated[int, _training] = 8
    weight_decay: Annotated[float, _training] = 0.02
    label_smoothing: Annotated[float, _training] = 0.1
    mixup: Annotated[float, _training] = 0.0
    class_weights: Annotated[Literal["none", "balanced"], _training] = "none"
    val_fraction: Annotated[float, _data] = 0.2
    cache_gb: Annotated[float, _hardware] = 8.0
    store_gb: Annotated[float, _hardware] = DEFAULT_STORE_GB
    abstain_precision: Annotated[float | None, _output] = None
    ood_false_alarms: Annotated[float, _output] = 0.05
    strict: Annotated[bool, Parameter(group=DATA, negative="")] = False
    path_column: Annotated[str | None, _data] = None
    label_column: Annotated[str | None, _data] = None
    split_column: Annotated[str | None, _data] = None
    drop_contradictions: Annotated[bool, Parameter(group=DATA, negative="")] = False
    split_folders: Annotated[Literal["auto", "none"], _data] = "auto"
    drop_issues: Annotated[str | None, _data] = None
    relabel: Annotated[str | None, _data] = None
    deep_range: Annotated[str, _data] = AUTO_RANGE
    teacher: Annotated[str | None, _teacher] = None
    unlabeled: Annotated[str | None, _teacher] = None
    temperature: Annotated[float | None, _teacher] = None
    teacher_weight: Annotated[float | None, _teacher] = None

    def __post_init__(self) -> None:
        """Validate the values."""
        check_ranges(vars(self), _RANGES)
        if self.deep_range not in (AUTO_RANGE, FULL_RANGE):
            parse_deep_range(self.deep_range)
        choices = (AUTO, *recipe_names())
        if self.recipe not in choices:
            raise OptionsError(f"--recipe must be one of {', '.join(choices)}, got {self.recipe!r}")
        if self.cut != "auto" and self.recipe != AUTO and not recipe_of(self.recipe).accepts_cut(self.cut):
            raise OptionsError(
                f"--cut {self.cut} cannot be combined with --recipe {self.recipe}; leave out one of them, or use "
                f"--recipe {LAST_BLOCKS} with the name of a block"
            )
        self._check_teacher(choices)

    def _check_teacher(self, choices: Sequence[str]) -> None:
        for name in ("teacher", "unlabeled"):
            if getattr(self, name) == "":  # of a variable that is not set: the run would silently have no teacher
                raise OptionsError(f"--{name} is empty; give a path, or leave it out")
        given = [name for name in _NEED_TEACHER if getattr(self, name) is not None]
        if self.teacher is None and given:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise OptionsError(f"{flags} needs --teacher, the model whose answers are trained on")
        if self.teacher is not None and not is_teachable(self.requested_recipe):
            raise OptionsError(
                f"--recipe {self.requested_recipe} cannot be combined with --teacher, which needs a softmax over all "
                f"classes and pretrained weights; use --recipe {', '.join(filter(is_teachable, choices))}, or leave "
                "out --teacher"
            )

    @property
    def requested_recipe(self) -> str:
        """The requested recipe, which may be implied by the cut; "auto" if neither is given."""
        if self.recipe != AUTO or self.cut == "auto":
            return self.recipe
        return {"head": PROBE, "all": ALL_BLOCKS}.get(self.cut, LAST_BLOCKS)

    def metric_for(self, counts: Sequence[int]) -> Metric:
        """Return what candidates are compared by.

        Args:
            counts: number of training images of each class; classes without any are ignored.
        """
        if self.metric != "auto":
            return self.metric
        present = [count for count in counts if count]
        imbalanced = bool(present) and max(present) > _IMBALANCED * min(present)
        return BALANCED if imbalanced or self.class_weights == "balanced" else ACCURACY

    def epochs_for(self, images: int, factor: int = 1) -> int:
        """Return the number of epochs.

        Args:
            images: number of training images.
            factor: multiplies the default; has no effect if `epochs` is given.
        """
        if self.epochs is not None:
            return self.epochs
        return factor * min(_MOST_EPOCHS, max(_FEWEST_EPOCHS, -(-_IMAGES_SEEN // images)))

    def batch_size_for(self, images: int) -> int:
        """Return the number of images per step: by default a power of two, small for few images to take many steps."""
        if self.batch_size is not None:
            return self.batch_size
        wanted: int = 2 ** round(math.log2(max(1, images / _STEPS_PER_EPOCH)))
        return min(_LARGEST_BATCH, max(_SMALLEST_BATCH, wanted))


def parse_deep_range(text: str) -> tuple[float, float]:
    """Read a range of values that is written as "LOW,HIGH".

    Raises:
        OptionsError: not two finite numbers, the second one above the first.
    """
    try:
        low, high = (float(number) for number in text.split(","))
        check_deep_range((low, high))
    except ValueError:
        raise OptionsError(
            f"--deep-range must be {AUTO_RANGE}, {FULL_RANGE}, or LOW,HIGH with LOW below HIGH, such as 0,4095; got "
            f"{text!r}"
        ) from None
    return low, high
