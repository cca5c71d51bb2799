"""Training speed and memory on this device, and the time that the cache saves."""

import resource
import time
from dataclasses import dataclass, replace
from itertools import cycle, islice, product
from pathlib import Path
from statistics import median

import torch

from bench.gpu.networks import prepared, random_network
from bench.gpu.part import Part
from bench.gpu.promises import CACHED, DECODED
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.tune.backbones.network import ALL, HEAD, Network
from unfreeze.tune.data.dataset import TRAIN, read_dataset
from unfreeze.tune.data.images import LabeledImage, labels_of
from unfreeze.tune.data.views import Views
from unfreeze.tune.device.precision import Precision, choose_precision
from unfreeze.tune.features.activations import ActivationSource, Cached
from unfreeze.tune.features.extract import extract_features
from unfreeze.tune.features.placement import CachePlacement
from unfreeze.tune.options import PrecisionName, TuneOptions
from unfreeze.tune.training.optimization import Schedule
from unfreeze.tune.training.train import Training

_IN_MEMORY = "whole network, images in memory"
_PRECISIONS: tuple[PrecisionName, ...] = ("fp32", "bf16", "fp16")
_SLOW = "CPUs do not train in float16"
_RATE = 1e-9  # practically zero, so that nothing diverges
_EPOCHS = 3  # timed epochs of each kind
_BUDGET_BYTES = 1 << 36


def measure(part: Part) -> None:
    """Compare epochs on the cache with full forward epochs, then train at each cut in each precision."""
    setting = part.setting
    if setting.device == "cuda" and not torch.cuda.is_available():
        part.left_out("training", f"torch {torch.__version__} finds no usable GPU")
        return
    precision = choose_precision(setting.device)
    dataset = read_dataset(setting.data)
    own = dataset.splits[TRAIN]
    images = tuple(islice(cycle(own), setting.trained))
    for number, backbone in enumerate(setting.tuned):
        with part.trying(f"training {backbone}"):
            network, spec = random_network(backbone, len(dataset.labels), own)
            network.to(precision.device, memory_format=torch.channels_last)
            pixels = prepared(own, spec, setting.trained)[:, None]
            in_memory = Cached(position=0, activations=pixels, labels=labels_of(images))
            bench = _Bench(part=part, backbone=backbone, network=network, in_memory=in_memory, precision=precision)
            if number == 0:
                bench.compare_epochs(images, spec)
            bench.train_everywhere(len(setting.tuned) - number)


@dataclass(frozen=True, kw_only=True)
class _Bench:
    """Trains one network.

    Args:
        part: part that records the results.
        backbone: name of the network.
        network: network on the device.
        in_memory: prepared images.
        precision: default precision of tuning.
    """

    part: Part
    backbone: str
    network: Network
    in_memory: Cached
    precision: Precision

    def compare_epochs(self, images: tuple[LabeledImage, ...], spec: PreprocessSpec) -> None:
        """Time epochs that train the last block, alternating: on the cache, and with a full forward pass."""
        last = len(self.network.block_names) - 1
        folder = Path(self.part.setting.folder)
        placement = CachePlacement(budget_bytes=_BUDGET_BYTES, folder=folder, device=self.precision.device)
        started = time.perf_counter()
        extracted = extract_features(self.network, last, images, Views(spec=spec), self.precision, placement)
        self._note_epoch("filling the cache", time.perf_counter() - started)
        sources: dict[str, ActivationSource] = {
            CACHED: extracted.source_at(last, placement),
            DECODED: replace(extracted.streamed, position=0),
            _IN_MEMORY: self.in_memory,
        }
        taken: dict[str, list[float]] = {name: [] for name in sources}
        for number in range(1 + _EPOCHS):
            if number > 1 and self.part.left_s < self.part.setting.seconds / 2:
                break
            for name, source in sources.items():
                taken[name].append(self._epoch_s(source, last, self.precision))
        for name, seconds in taken.items():
            self._note_epoch(name, median(seconds[1:]))  # the first warms up

    def _note_epoch(self, source: str, seconds: float) -> None:
        images = len(self.in_memory.labels)
        self.part.note("epoch", model=self.backbone, source=source, seconds=seconds, per_s=images / seconds)

    def train_everywhere(self, networks_left: int) -> None:
        """Train the head, the last block and all blocks with full forward passes on images in memory."""
        cuts = (HEAD, self.network.block_names[-1], ALL)
        count = networks_left * len(_PRECISIONS) * len(cuts)
        for number, (name, cut) in enumerate(product(_PRECISIONS, cuts)):
            what, seconds = f"{self.backbone} in {name} from {cut}", self.part.each_s(count - number)
            if seconds <= 0 or (name == "fp16" and self.precision.device.type == "cpu"):
                self.part.left_out(f"training {what}", "no time was left" if seconds <= 0 else _SLOW)
                continue
            with self.part.trying(f"training {what}"):
                self._train(name, cut, seconds)

    def _train(self, name: PrecisionName, cut: str, seconds: float) -> None:
        precision, position = choose_precision(self.part.setting.device, name), self.network.position(cut)
        self._epoch_s(self.in_memory, position, precision)
        if precision.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        taken: list[float] = []
        while not taken or sum(taken) + taken[-1] < seconds:
            taken.append(self._epoch_s(self.in_memory, position, precision))
        per_s = len(self.in_memory.labels) / median(taken)
        self.part.note(
            "tuned", model=self.backbone, precision=name, cut=cut, per_s=per_s, peak_mb=_peak_mb(precision.device)
        )

    def _epoch_s(self, source: ActivationSource, position: int, precision: Precision) -> float:
        schedule = Schedule(epochs=1, learning_rate=_RATE, blocks=range(position, len(self.network.block_names)))
        options = TuneOptions(backbone=self.backbone, batch_size=self.part.setting.train_batch)
        training = Training(
            network=self.network, source=source, schedule=schedule, options=options, precision=precision
        )
        started = time.perf_counter()
        training.run()
        if precision.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started


def _peak_mb(device: torch.device) -> float:
    """Return the device's peak memory since the reset, in MB; on a CPU, the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
