"""Small networks with random weights, and what one pass of them over small pictures gives."""

from pathlib import Path

import torch

from contract.preprocess import PreprocessSpec
from support.pictures import write_pictures
from support.runs import SPEC
from tune.cache import Cached
from tune.dataset import read_dataset
from tune.families import build
from tune.gather import Gathered, gather
from tune.network import Network
from tune.pictures import TRAIN, Picture
from tune.precision import Precision
from tune.room import Room
from tune.views import Views

FLOAT32 = Precision(device=torch.device("cpu"), dtype=torch.float32)
BFLOAT16 = Precision(device=torch.device("cpu"), dtype=torch.bfloat16)
AMPLE = 1 << 30


def small_network(
    backbone: str = "squeezenet1_1", *, spec: PreprocessSpec = SPEC, classes: int = 3, **options: object
) -> Network:
    """Build a network with random weights, the same each time, in eval mode."""
    torch.manual_seed(0)
    return Network(backbone, build(backbone, **options), spec, classes).eval()


def training_pictures(folder: Path, per_class: int = 8) -> tuple[Picture, ...]:
    """Write pictures of three colours, 64 by 80 pixels, and read them."""
    write_pictures(folder / "data" / TRAIN, per_class)
    write_pictures(folder / "data" / "val", 1, first_seed=500)
    return read_dataset(folder / "data").splits[TRAIN]


def activations_at(network: Network, position: int, count: int = 24, *, views: int = 1, seed: int = 0) -> Cached:
    """Make up activations of three classes that differ in their means; at 0, pictures of noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    shape = network.border_shape(position)
    if position == 0:
        pictures = torch.randint(0, 256, (count, views, *shape), dtype=torch.uint8, generator=generator)
        return Cached(position=0, activations=pictures, labels=labels)
    centres = torch.randn(3, *shape, generator=torch.Generator().manual_seed(99))
    noise = torch.randn(count, views, *shape, generator=generator)
    activations = (centres[labels][:, None] + noise).relu().bfloat16()
    return Cached(position=position, activations=activations, labels=labels)


def room_in(folder: Path, budget_bytes: int = AMPLE) -> Room:
    """Give room for activations."""
    return Room(budget_bytes=budget_bytes, folder=folder)


def gathered_at(  # noqa: PLR0913 - one pass is told several things
    network: Network,
    position: int,
    pictures: tuple[Picture, ...],
    folder: Path,
    *,
    views: int = 2,
    precision: Precision = FLOAT32,
    budget_bytes: int = AMPLE,
    survey: bool = False,
) -> Gathered:
    """Run the network once over the pictures."""
    recipe = Views(spec=SPEC, count=views, seed=1)
    return gather(network, position, pictures, recipe, precision, room_in(folder, budget_bytes), survey=survey)
