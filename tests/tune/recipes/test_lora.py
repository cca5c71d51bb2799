"""The recipe `lora`: low-rank adapters of the attention that are trained, and merged into its weights in the end."""

import copy
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from support.images import write_images
from support.interrupted import Moment, tune_in_process
from support.tuning import BFLOAT16, FLOAT32, activations_at, small_network
from torch import Tensor

from unfreeze.contract.errors import CheckpointError
from unfreeze.export.graph import CalibratedNetwork, onnx_from_network
from unfreeze.tune.artifacts.checkpoint import load_run
from unfreeze.tune.backbones.adapters import attention_weights
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.backbones.weights import load_pretrained
from unfreeze.tune.device.precision import Precision
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.recipes.registry import recipe_of
from unfreeze.tune.run import fine_tune
from unfreeze.tune.training.optimization import Schedule, parameter_groups
from unfreeze.tune.training.train import Training

VIT = "timm/test_vit"  # 6 blocks of 64 features
OPTIONS = TuneOptions(
    backbone=VIT, weights="none", image_size=32, device="cpu", recipe="lora", epochs=2, batch_size=8, lora_rank=4
)
pytestmark = pytest.mark.xdist_group("lora")


def _network(backbone: str = VIT) -> Network:
    torch.manual_seed(0)
    return load_pretrained(backbone, "none", 32).network(backbone, 3, torch.device("cpu"))


def _training(network: Network, position: int, *, precision: Precision = FLOAT32, **options: object) -> Training:
    blocks = range(position, len(network.block_names))
    return Training(
        network=network,
        source=activations_at(network, position),
        schedule=Schedule(epochs=2, learning_rate=3e-3, blocks=blocks, adapts=True),
        options=TuneOptions(**({"batch_size": 8, "lora_rank": 4} | options)),
        precision=precision,
        held_out=activations_at(network, position, 12, seed=1) if options.get("patience") else None,
    )


def _copied(network: Network) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("vit_b_16", {"in_proj_weight", "out_proj.weight"}),
        ("swin_t", {"qkv.weight", "proj.weight"}),
    ],
)
def test_torchvisions_attention_is_found(key: str, names: set[str]) -> None:
    """The matrices of the attention are found however a block uses them, and no others."""
    network = small_network(key)
    found = [f"{one.module}.{one.name}" for block in network._blocks for one in attention_weights(network.model, block)]
    assert len(set(found)) == len(found) > 0
    attention = "self_attention" if key == "vit_b_16" else "attn"
    expected = [
        name
        for name, parameter in network.model.named_parameters()
        if f"{attention}." in name and parameter.ndim == 2 and "table" not in name
    ]
    assert sorted(found) == sorted(expected)
    assert {name.rpartition(f"{attention}.")[2] for name in found} == names


@pytest.mark.parametrize("key", [VIT, "vit_b_16", "swin_t"])
def test_new_adapters_change_nothing_and_merging_them_restores_the_network(key: str) -> None:
    """Before training, an adapted network is the pretrained one, bit for bit, and so it is after merging."""
    network = _network() if key == VIT else small_network(key)
    pixels = torch.randint(0, 256, (2, *network.image_shape), dtype=torch.uint8)
    before = _copied(network)
    expected = network(pixels).detach()
    network.adapt(range(len(network.block_names)), 4, seed=0)
    assert network.state_dict().keys() != before.keys()
    assert torch.equal(network(pixels), expected)
    network.merge_adapters()
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())


@pytest.mark.parametrize("key", [VIT, "vit_b_16", "swin_t"])
def test_only_the_attention_behind_the_cut_changes(key: str) -> None:
    """Training changes the head and the matrices of the attention, all others keep every bit."""
    network = _network() if key == VIT else small_network(key)
    position = len(network.block_names) - 1
    before = _copied(network)
    adapted = {f"model.{one.module}.{one.name}" for one in attention_weights(network.model, network._blocks[position])}
    _training(network, position).run()
    after = network.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(after[name], value)}
    assert after.keys() == before.keys()
    assert changed == adapted | {"head.linear.weight", "head.linear.bias"}


def test_a_change_has_the_rank_of_the_adapters() -> None:
    """The difference of a trained and a pretrained matrix has rank 4, and its scale is 16 / 4."""
    network = _network()
    before = network.model.get_parameter("blocks.5.attn.qkv.weight").detach().clone()
    training = _training(network, 6)
    training.run()
    change = network.model.get_parameter("blocks.5.attn.qkv.weight").detach() - before
    values = torch.linalg.svdvals(change)
    assert values[3] > 1e3 * values[4]
    up, down = (training.parameters[number] for number in (1, 0))
    if up.shape[0] == 4:
        up, down = down, up
    torch.testing.assert_close(change, 4 * (up @ down).detach(), rtol=1e-4, atol=1e-6)


def test_outputs_survive_merging() -> None:
    """The merged network answers as the adapted one did."""
    network = _network()
    training = _training(network, 3)
    training._epoch()
    network.eval()
    inputs = activations_at(network, 3, 8, seed=5).activations[:, 0].float()
    with torch.no_grad():
        adapted = network.run_tail(inputs, 3)
        network.merge_adapters()
        torch.testing.assert_close(network.run_tail(inputs, 3), adapted, rtol=1e-4, atol=1e-5)


def test_trained_parameters_are_those_of_adapters_and_head() -> None:
    """A rank of 4 has 4 (64 + 192) weights for queries, keys and values, and 4 (64 + 64) for the projection."""
    training = _training(_network(), 5)
    assert training.trained_parameters == 2 * 4 * (64 + 192 + 64 + 64) + 64 * 3 + 3


def test_adapters_of_all_blocks_have_one_learning_rate() -> None:
    """Adapters do not change weights by much, so the rate does not fall toward the input unless requested."""
    training = _training(_network(), 1)
    rates = {group["lr"] for group in parameter_groups(training.network, training.schedule, "adamw")[1:]}
    assert rates == {3e-3, 1e-3}  # of the adapters, and of the head's bias
    groups = parameter_groups(training.network, training.schedule, "adamw", layer_decay=0.5)
    assert [group["lr"] for group in groups[2:]] == pytest.approx([3e-3 * 0.5**depth for depth in range(5, -1, -1)])


def test_training_restored_after_an_epoch_is_the_same() -> None:
    """The state contains the adapters and the head, and nothing of the frozen weights."""
    whole, interrupted, resumed = (_training(_network(), 3) for _ in range(3))
    states = []
    interrupted.run(lambda done: states.append(copy.deepcopy(done.state())))
    assert all("parametrizations" in key or key.startswith("head.") for key in states[0]["network"])
    assert not any("original" in key for key in states[0]["network"])
    resumed.restore(states[0])
    resumed.run()
    whole.run()
    expected = whole.network.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in resumed.network.state_dict().items())


def test_adapters_train_in_bfloat16_as_in_float32() -> None:
    """The losses are the same within the precision, and the merged weights stay float32."""
    trainings = [_training(_network(), 3, precision=precision) for precision in (FLOAT32, BFLOAT16)]
    for training in trainings:
        training.run()
    losses = [[epoch.loss for epoch in training.epochs] for training in trainings]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert {value.dtype for value in trainings[1].network.state_dict().values()} == {torch.float32}


def test_early_stopping_keeps_the_best_adapters() -> None:
    """The merged weights are those of the epoch with the lowest loss on held-out images."""
    training = _training(_network(), 4, patience=1, learning_rate=0.1)
    training.run()
    assert training.best is not None
    assert not any("parametrizations" in key for key in training.network.state_dict())
    assert torch.equal(training.network.head.linear.weight, training.best["head.linear.weight"])


def _graph(run: Path) -> onnx.ModelProto:
    network, facts = load_run(run)
    return onnx_from_network(CalibratedNetwork(network, facts.temperature, facts.link), (32, 32, 3))


def test_a_run_has_the_backbones_keys_and_graph(tmp_path: Path) -> None:
    """Its weights load into the backbone, and its graph has as many nodes and bytes as that of the probe."""
    data = write_images(tmp_path / "data", 6)
    fine_tune(data, tmp_path / "probe", replace(OPTIONS, recipe="probe", epochs=1))
    probe = _graph(tmp_path / "probe")
    for cut, blocks in (("auto", 6), ("blocks.3", 3)):
        out = tmp_path / cut
        metrics = fine_tune(data, out, replace(OPTIONS, cut=cut, epochs=1, lora_rank=8))
        assert metrics["trained_parameters"] == blocks * 8 * (64 + 192 + 64 + 64) + 64 * 3 + 3
        assert (metrics["recipe"], metrics["cut"]) == ("lora", "all" if cut == "auto" else cut)
        graph = _graph(out)
        assert len(graph.graph.node) == len(probe.graph.node)
        assert abs(graph.ByteSize() - probe.ByteSize()) < 100  # the temperatures' names and digits


def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    """After a kill behind the first epoch, `--resume` ends with the weights of an uninterrupted run."""
    data = write_images(tmp_path / "data", 6)
    assert tune_in_process(data, tmp_path / "whole", OPTIONS) == 0
    assert tune_in_process(data, tmp_path / "killed", OPTIONS, Moment(progress="training", step=1)) != 0
    assert tune_in_process(data, tmp_path / "killed", OPTIONS, resume=True) == 0
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "killed")]
    assert weights[0] == weights[1]


def test_networks_without_attention_are_refused_before_any_work(tmp_path: Path) -> None:
    """The error names the recipe that trains the blocks of any network."""
    data = write_images(tmp_path / "data", 3)
    options = TuneOptions(backbone="squeezenet1_1", weights="none", device="cpu", recipe="lora")
    with pytest.raises(CheckpointError, match=r"squeezenet1_1 has none from the block features\.0 on; use --rec"):
        fine_tune(data, tmp_path / "run", options)
    assert not (tmp_path / "run").exists()


def test_adapts_all_blocks_unless_a_cut_is_given() -> None:
    """The recipe accepts every cut but that before the head."""
    recipe = recipe_of("lora")
    assert [recipe.accepts_cut(cut) for cut in ("all", "blocks.2", "head")] == [True, True, False]
