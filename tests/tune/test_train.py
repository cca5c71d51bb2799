"""Training: what is frozen stays, what learns learns, and each at its rate."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from support.pictures import write_pictures
from support.runs import SPEC

from contract.preprocess import PreprocessSpec
from tune.cache import Cached, Room, fill_cache, pooled_features
from tune.dataset import read_dataset
from tune.evaluate import Evaluation, evaluate, fit_temperature
from tune.network import Network
from tune.options import TuneOptions
from tune.precision import Precision
from tune.probe import fit_probe
from tune.train import Epoch, _parameter_groups, _rate, train_network
from tune.views import Views

FLOAT32 = Precision(device=torch.device("cpu"), dtype=torch.float32)


def _network(backbone: str) -> Network:
    torch.manual_seed(0)
    return Network(backbone, torchvision.models.get_model(backbone), SPEC, 3).eval()


def _cached(network: Network, cut: str, folder: Path) -> Cached:
    pictures = read_dataset(write_pictures(folder / "data", 12), val_fraction=0.1).splits["train"]
    room = Room(memory_bytes=1 << 30, folder=folder)
    views = Views(spec=SPEC, count=2)
    return fill_cache(network, network.position(cut), pictures, views, FLOAT32, room)


def _train(network: Network, cached: Cached, **options: object) -> list[Epoch]:
    epochs: list[Epoch] = []
    features = pooled_features(network, cached, FLOAT32)
    probe = fit_probe(features[:, :1], cached.labels)
    train_network(network, cached, features, probe, TuneOptions(batch_size=8, **options), FLOAT32, epochs.append)
    return epochs


@pytest.mark.parametrize(
    ("backbone", "cut"),
    [
        ("resnet18", "layer4"),
        ("mobilenet_v3_small", "features.10"),
        ("squeezenet1_1", "features.9"),
        ("vgg11_bn", "features.22"),
    ],
)
def test_what_is_frozen_stays_bit_for_bit(backbone: str, cut: str, tmp_path: Path) -> None:
    """Weights and batch statistics before the cut do not change; every weight behind it does."""
    network = _network(backbone)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    position = network.position(cut)
    epochs = _train(network, _cached(network, cut, tmp_path), epochs=2, learning_rate=1e-2)
    after = network.state_dict()
    behind = {id(parameter) for parameter in network.block_parameters(position)}
    for key, parameter in network.named_parameters():
        moved = not torch.equal(before[key], after[key])
        assert moved == (id(parameter) in behind or key.startswith("head.")), key
    statistics = [key for key in after if key.endswith(("running_mean", "num_batches_tracked"))]
    trained = {name for block in network._blocks[position:] for name in _names(network, block.modules)}
    for key in statistics:
        assert torch.equal(before[key], after[key]) != any(key.startswith(f"{name}.") for name in trained), key
    assert [epoch.stage for epoch in epochs] == ["head"] * 6 + ["blocks"] * 2
    assert not network.training


def _names(network: Network, modules: tuple[torch.nn.Module, ...]) -> list[str]:
    return [name for name, module in network.named_modules() if any(module is one for one in modules)]


def test_the_head_alone_leaves_all_blocks(tmp_path: Path) -> None:
    """At the cut "head", only the head changes."""
    network = _network("resnet18")
    before = {key: value.clone() for key, value in network.model.state_dict().items()}
    weight = network.head.linear.weight.clone()
    assert [epoch.stage for epoch in _train(network, _cached(network, "head", tmp_path))] == ["head"] * 6
    assert all(torch.equal(before[key], value) for key, value in network.model.state_dict().items())
    assert not torch.equal(weight, network.head.linear.weight)


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3_small"])
def test_blocks_learn_ten_times_slower_than_the_head_and_slower_toward_the_input(backbone: str) -> None:
    """Every parameter is in one group; norms and biases have no decay; rates fall from the head to the input."""
    network = _network(backbone)
    options = TuneOptions(learning_rate=1e-2, weight_decay=0.05)
    groups = _parameter_groups(network, 0, options)
    members = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(members) == sorted(id(parameter) for parameter in network.parameters())
    head = {id(parameter) for parameter in network.head.parameters()}
    rates = {}
    for group in groups:
        assert all((parameter.ndim <= 1) == (group.get("weight_decay") == 0.0) for parameter in group["params"])
        is_head = any(id(parameter) in head for parameter in group["params"])
        assert group["lr"] == 1e-2 if is_head else group["lr"] <= 1e-3 * (1 + 1e-9)
        rates |= {id(parameter): group["lr"] for parameter in group["params"]}
    order = [rates[id(parameter)] for parameter in network.block_parameters(0)]
    assert order == sorted(order)
    assert order[0] < order[-1]


def test_cached_maps_are_mirrored_left_to_right() -> None:
    """Half of a batch is mirrored along the picture's width, whichever axis that is; a transformer's tokens are not."""
    generator = torch.Generator().manual_seed(0)
    for backbone, shape, axis in (("squeezenet1_1", (40, 3, 4, 5), 3), ("swin_t", (40, 4, 5, 3), 2)):
        batch = torch.rand(shape)
        network = Network(
            backbone, torchvision.models.get_model(backbone), PreprocessSpec(resize=(64,), crop=(64, 64)), 2
        )
        found = network.flipped(batch, generator)
        mirrored = [torch.equal(one, two) for one, two in zip(found, batch.flip(axis), strict=True)]
        same = [torch.equal(one, two) for one, two in zip(found, batch, strict=True)]
        assert all(one != two for one, two in zip(mirrored, same, strict=True))
        assert 8 < sum(mirrored) < 32
        pictures = torch.randint(0, 256, (40, 4, 5, 3), dtype=torch.uint8)
        found = network.flipped(pictures, generator)
        assert all(
            torch.equal(one, two) or torch.equal(one, two.flip(1)) for one, two in zip(found, pictures, strict=True)
        )
    tokens = torch.rand(40, 5, 3)
    network._width_axis = None
    assert torch.equal(network.flipped(tokens, generator), tokens)


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    """Linear up, cosine down."""
    rates = [_rate(step, 10, 100) for step in range(100)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.5)
    assert rates[-1] < 0.001


@pytest.mark.parametrize("backbone", ["squeezenet1_1", "vgg11"])
def test_networks_without_normalisation_learn(backbone: str, tmp_path: Path) -> None:
    """Random weights, features of any scale: the loss falls and stays finite."""
    network = _network(backbone)
    with torch.no_grad():
        for parameter in network.model.parameters():
            parameter.mul_(3.0)  # features some thousand times too large
    cached = _cached(network, network.block_names[-3], tmp_path)
    losses = [epoch.loss for epoch in _train(network, cached, epochs=4) if epoch.stage == "blocks"]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


def test_equal_seeds_give_equal_weights(tmp_path: Path) -> None:
    """Two runs on one machine end in the same bits, and another seed does not."""
    states = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        network = _network("mobilenet_v3_small")
        (tmp_path / folder).mkdir()
        cached = _cached(network, "features.11", tmp_path / folder)
        _train(network, cached, epochs=2, seed=seed)
        states.append(network.export_state())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not all(torch.equal(states[0][key], states[2][key]) for key in states[0])


def test_temperature_undoes_overconfidence() -> None:
    """Logits three times too large get a temperature near three, and honest ones about one."""
    rng = np.random.default_rng(2)
    honest = torch.from_numpy(rng.normal(0, 1.5, (4000, 5))).float()
    labels = torch.distributions.Categorical(logits=honest).sample()
    for factor in (0.5, 1.0, 3.0):
        evaluation = Evaluation(logits=honest * factor, labels=labels, pictures=(), skipped=())
        assert fit_temperature(evaluation) == pytest.approx(factor, rel=0.1)


def test_evaluation_is_in_full_precision_and_skips_what_is_no_picture(tmp_path: Path) -> None:
    """Logits are the network's own in float32, in the pictures' order."""
    data = write_pictures(tmp_path / "data", 6)
    (data / "red" / "000.jpg").write_bytes(b"gone")
    pictures = read_dataset(data, val_fraction=0.2).splits["train"]
    network = _network("resnet18")
    evaluation = evaluate(network, pictures, SPEC, torch.device("cpu"))
    assert len(evaluation.pictures) + len(evaluation.skipped) == len(pictures)
    assert evaluation.logits.dtype == torch.float32
    assert evaluation.labels.tolist() == [picture.label for picture in evaluation.pictures]
    assert evaluation.accuracy == float(np.mean(evaluation.logits.argmax(1).numpy() == evaluation.labels.numpy()))
