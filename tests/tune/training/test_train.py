"""Training: frozen blocks do not change, trained ones do, each at its learning rate."""

import copy
import io
import math
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
import torch
from support.images import write_images
from support.runs import SPEC
from support.tuning import FLOAT32, activations_at, extracted_at, small_network, training_images
from torch import Tensor, nn

from unfreeze.contract.errors import DivergenceError
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.data.dataset import read_dataset
from unfreeze.tune.evaluation.evaluate import Evaluation, evaluate, fit_temperature
from unfreeze.tune.features.activations import ActivationSource, Cached
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.recipes.registry import recipe_of
from unfreeze.tune.training.augment import MixedBatch
from unfreeze.tune.training.optimization import (
    Schedule,
    make_optimizer,
    parameter_groups,
    shuffled_batches,
    warmup_cosine,
)
from unfreeze.tune.training.train import Training


def _training(
    network: Network,
    source: ActivationSource,
    blocks: Collection[int],
    *,
    epochs: int = 2,
    learning_rate: float = 1e-3,
    held_out: ActivationSource | None = None,
    **options: object,
) -> Training:
    return Training(
        network=network,
        source=source,
        schedule=Schedule(epochs=epochs, learning_rate=learning_rate, blocks=blocks),
        options=TuneOptions(**({"batch_size": 8} | options)),
        precision=FLOAT32,
        held_out=held_out,
    )


def _source(network: Network, position: int, folder: Path, per_class: int = 8) -> Cached:
    kept = extracted_at(network, position, training_images(folder, per_class), folder).cached
    assert kept is not None
    return kept


def _copied(network: Network) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize(
    ("backbone", "recipe", "cut"),
    [
        ("resnet18", "last-blocks", "layer4"),
        ("mobilenet_v3_small", "last-blocks", "features.10"),
        ("squeezenet1_1", "last-blocks", "features.9"),
        ("vgg11:bn", "last-blocks", "features.19"),
        ("resnet18", "stem-head", "all"),
        ("mobilenet_v3_small", "stem-head", "all"),
        ("resnet18", "all", "all"),
        ("squeezenet1_1", "all", "all"),
        ("resnet18", "scratch", "all"),
        ("resnet18", "probe", "head"),
    ],
)
def test_only_trained_blocks_change(backbone: str, recipe: str, cut: str, tmp_path: Path) -> None:
    """All weights of a recipe's blocks and of the head change, batch statistics if no block is frozen, no others."""
    network = small_network(backbone)
    before, position = _copied(network), network.position(cut)
    blocks = recipe_of(recipe).trained_blocks(position, len(network.block_names))
    source = activations_at(network, position) if cut == "head" else _source(network, position, tmp_path)
    training = _training(network, source, blocks, learning_rate=1e-2)
    training.run()
    after = network.state_dict()
    trained = ["head", *(f"model.{path}" for index in blocks for path in network._blocks[index].modules)]
    for key, value in after.items():
        inside = any(key.startswith(f"{name}.") for name in trained)
        statistic = key in ("head.mean", "head.inverse_std") or (position and _is_batch_statistic(key))
        assert torch.equal(before[key], value) == (statistic or not inside), key
    assert [epoch.number for epoch in training.epochs] == [1, 2]
    assert not network.training


def _is_batch_statistic(key: str) -> bool:
    return key.endswith((".running_mean", ".running_var", ".num_batches_tracked"))


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3_small"])
def test_training_behind_frozen_blocks_starts_from_the_evaluated_network(backbone: str) -> None:
    """The loss of the first step is that in eval mode, with the batch statistics of pretraining."""
    network = small_network(backbone)
    position = len(network.block_names) - 2
    source = activations_at(network, position)
    with torch.inference_mode():
        logits = network.run_tail(source.activations[:, 0].float(), position)
    expected = torch.nn.functional.cross_entropy(logits, source.labels, label_smoothing=0.1)
    training = _training(network, source, range(position, position + 2), epochs=1, batch_size=len(source.labels))
    training.run()
    assert training.epochs[0].loss == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(("optimizer", "head_rate", "factor"), [("adamw", 1e-3, 1), ("sgd", 1e-2, 10)])
@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3_small"])
def test_learning_rates_decrease_toward_the_input(
    backbone: str, optimizer: str, head_rate: float, factor: float
) -> None:
    """The head has its own; the last block the requested one, the first of n that times 0.3^((n - 1) / n)."""
    network = small_network(backbone)
    count = len(network.block_names)
    groups = parameter_groups(network, Schedule(epochs=1, learning_rate=2e-3, blocks=range(count)), optimizer)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert Counter(id(parameter) for group in groups for parameter in group["params"]) == Counter(
        id(parameter) for parameter in network.parameters()
    )
    assert {rates[id(parameter)] for parameter in network.head.parameters()} == {head_rate}
    for index in range(count):
        expected = factor * 2e-3 * 0.3 ** ((count - 1 - index) / count)
        own = [rates[id(parameter)] for parameter in network.block_parameters(index, index + 1)]
        assert own == pytest.approx([expected] * len(own))
    assert groups[-1]["lr"] == pytest.approx(factor * 2e-3)


@pytest.mark.parametrize(("layer_decay", "expected"), [(0.5, [2.5e-4, 5e-4, 1e-3]), (1.0, [1e-3, 1e-3, 1e-3])])
def test_a_layer_decay_is_the_share_of_the_next_blocks_rate(layer_decay: float, expected: list[float]) -> None:
    """The last block has the requested rate; of the last three blocks, the first has it times the decay squared."""
    network = small_network("vit_b_16")
    count = len(network.block_names)
    schedule = Schedule(epochs=1, learning_rate=1e-3, blocks=range(count - 3, count))
    groups = parameter_groups(network, schedule, "adamw", layer_decay)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    found = [rates[id(next(network.block_parameters(index, index + 1)))] for index in schedule.blocks]
    assert found == pytest.approx(expected)


def test_a_requested_layer_decay_reaches_the_optimizer() -> None:
    """With a decay of 0.1, the block before the last one has a tenth of its rate."""
    network = small_network("vit_b_16")
    last = len(network.block_names) - 1
    schedule = Schedule(epochs=1, learning_rate=2e-3, blocks=[last - 1, last])
    optimizer = make_optimizer(network, schedule, TuneOptions(layer_decay=0.1))
    rates = sorted({group["lr"] for group in optimizer.param_groups})
    assert rates == pytest.approx([2e-4, 1e-3, 2e-3])  # of the block before the last one, the head, and the last block


def test_norms_and_biases_have_no_weight_decay() -> None:
    """Other weights have the requested one, or a tenth of it with SGD, whose learning rates are larger."""
    network = small_network("mobilenet_v3_small")
    source = activations_at(network, 10)
    decays = {}
    for optimizer in ("adamw", "sgd"):
        training = _training(network, source, range(10, 13), optimizer=optimizer, weight_decay=0.05)
        for group in training.optimizer.param_groups:
            for parameter in group["params"]:
                decays[optimizer, parameter.ndim > 1] = group["weight_decay"]
                assert parameter.requires_grad
                assert (parameter.ndim > 1) == (group["weight_decay"] > 0)
    assert decays == {
        ("adamw", True): 0.05,
        ("adamw", False): 0.0,
        ("sgd", True): pytest.approx(0.005),
        ("sgd", False): 0.0,
    }


def _expected_step(network: Network, source: Cached, optimizer: str, class_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Compute a head's first step by hand: the clipped gradient of the loss, and the optimizer's first step."""
    x = (source.activations[:, 0].float().mean((2, 3)) - network.head.mean) * network.head.inverse_std
    weight, bias = network.head.linear.weight.detach(), network.head.linear.bias.detach()
    targets = 0.9 * torch.eye(3)[source.labels] + 0.1 / 3
    # Label smoothing with class weights: each class's term of the cross-entropy counts by its own class's weight.
    weighted = targets * class_weights
    slope = ((x @ weight.T + bias).softmax(1) * weighted.sum(1, keepdim=True) - weighted) / len(x)
    gradients = [slope.T @ x, slope.sum(0)]
    norm = math.sqrt(sum(float((one**2).sum()) for one in gradients))
    gradients = [one * min(1, 1 / (norm + 1e-6)) for one in gradients]
    if optimizer == "sgd":  # Nesterov's first step: 1 + momentum times the gradient with its decay
        return weight - 1e-2 * 1.9 * (gradients[0] + 0.002 * weight), bias - 1e-2 * 1.9 * gradients[1]
    # AdamW's first step has the gradient's sign; decay is apart from it
    return (
        weight * (1 - 1e-3 * 0.02) - 1e-3 * gradients[0] / (gradients[0].abs() + 1e-8),
        bias - 1e-3 * gradients[1] / (gradients[1].abs() + 1e-8),
    )


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("balance", ["none", "balanced"])
def test_one_step_equals_the_formulas(optimizer: str, balance: str) -> None:
    """The first step of a head with all images in one batch equals the one computed by hand."""
    network = small_network("resnet18")
    made = activations_at(network, 5, 30)
    chosen = torch.cat(
        [(made.labels == 0).nonzero()[:6], (made.labels == 1).nonzero()[:3], made.labels.new_tensor([[2]])]
    )
    source = Cached(position=5, activations=made.activations[chosen[:, 0]], labels=made.labels[chosen[:, 0]])
    weights = torch.ones(3) if balance == "none" else torch.tensor([10 / 18, 10 / 9, 10 / 3])
    weight, bias = _expected_step(network, source, optimizer, weights)
    training = _training(network, source, (), epochs=1, optimizer=optimizer, batch_size=10, class_weights=balance)
    if balance == "balanced":
        torch.testing.assert_close(training.label_loss.class_weights, weights)
        assert float(training.label_loss.class_weights[source.labels].mean()) == pytest.approx(1)
    training.run()
    torch.testing.assert_close(network.head.linear.weight.detach(), weight, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(network.head.linear.bias.detach(), bias, rtol=1e-4, atol=1e-6)


def test_balanced_classes_help_the_rare_one() -> None:
    """Of two overlapping classes, one twenty times as frequent, the rare one is predicted more often with weights."""
    network = small_network("resnet18", classes=2)
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(210) % 21 == 0).long()
    activations = torch.randn(210, 1, *network.border_shape(5), generator=generator)
    activations[:, :, 0] += 1.5 * labels[:, None, None, None]
    source = Cached(position=5, activations=activations.bfloat16(), labels=labels)
    found = {}
    for balance in ("none", "balanced"):
        trained = copy.deepcopy(network)
        _training(trained, source, (), epochs=8, class_weights=balance, weight_decay=0.0).run()
        with torch.inference_mode():
            found[balance] = int(trained.head(activations[:, 0]).argmax(1).sum())
    assert found["balanced"] > found["none"] + 10


def test_the_loss_of_a_mixed_batch_is_that_of_both_labels() -> None:
    """It weights a sample's label by its share and the partner's label by the rest."""
    network = small_network("resnet18")
    training = _training(network, activations_at(network, 5), (), label_smoothing=0.2)
    batch = torch.rand(4, *network.border_shape(5))
    labels, partners = torch.tensor([0, 1, 2, 1]), torch.tensor([2, 0, 1, 3])
    found = training._loss(MixedBatch(batch=batch, partners=partners, share=0.7), labels)
    logits = network.head(batch).detach().log_softmax(1)
    targets = 0.8 * (0.7 * torch.eye(3)[labels] + 0.3 * torch.eye(3)[labels[partners]]) + 0.2 / 3
    assert float(found.detach()) == pytest.approx(float(-(targets * logits).sum()), rel=1e-5)


@pytest.mark.parametrize("position", [0, 3])
def test_mixup_changes_the_result_and_still_learns(position: int, tmp_path: Path) -> None:
    """With mixed images or activations the weights differ, and the loss decreases."""
    network = small_network("resnet18")
    source = _source(network, position, tmp_path)
    mixed, unmixed = copy.deepcopy(network), copy.deepcopy(network)
    training = _training(mixed, source, range(position, 5), epochs=5, mixup=0.2)
    training.run()
    _training(unmixed, source, range(position, 5), epochs=5).run()
    losses = [epoch.loss for epoch in training.epochs]
    assert losses[-1] < losses[0]
    assert not _same(mixed.state_dict(), unmixed.state_dict())


def test_the_learning_rate_warms_up_and_decays_to_zero() -> None:
    """Linear warm-up, cosine decay."""
    rates = [warmup_cosine(step, 10, 100) for step in range(100)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.5)
    assert rates[-1] < 0.001
    assert warmup_cosine(100, 10, 100) == pytest.approx(0)


def test_an_epoch_records_the_last_blocks_learning_rate() -> None:
    """The value at the end of each of two epochs of ten steps, with a warm-up of two."""
    network = small_network()
    training = _training(network, activations_at(network, 7, 80), range(7, 9), learning_rate=4e-4)
    training.run()
    expected = [4e-4 * 0.5 * (1 + math.cos(math.pi * (step - 2) / 18)) for step in (10, 20)]
    assert [epoch.learning_rate for epoch in training.epochs] == pytest.approx(expected)


@pytest.mark.parametrize(("count", "sizes"), [(7, [7]), (8, [8]), (15, [15]), (17, [9, 8]), (27, [9, 9, 9])])
def test_every_image_is_in_one_batch_of_an_epoch(count: int, sizes: list[int]) -> None:
    """Batches have at least eight images; views and orders are random."""
    generator = torch.Generator().manual_seed(0)
    epochs = [shuffled_batches(count, 3, 8, generator) for _ in range(20)]
    for indices in epochs:
        assert [len(rows) for rows, _ in indices] == sizes
        assert all(len(rows) == len(views) for rows, views in indices)
        assert sorted(torch.cat([rows for rows, _ in indices]).tolist()) == list(range(count))
    assert {int(view) for indices in epochs for _, views in indices for view in views} == {0, 1, 2}
    assert len({tuple(torch.cat([rows for rows, _ in indices]).tolist()) for indices in epochs}) == 20


@pytest.mark.parametrize("backbone", ["squeezenet1_1", "vgg11"])
@pytest.mark.parametrize(("optimizer", "learning_rate"), [("adamw", 5e-4), ("sgd", 1e-6)])
def test_networks_without_normalization_learn(
    backbone: str, optimizer: str, learning_rate: float, tmp_path: Path
) -> None:
    """With random weights and features of a large scale the loss falls and stays finite."""
    network = small_network(backbone)
    with torch.no_grad():
        for parameter in network.model.parameters():
            parameter.mul_(3.0)  # features some thousand times too large
    position = len(network.block_names) - 3
    found = extracted_at(network, position, training_images(tmp_path), tmp_path)
    features = found.features.flatten(0, 1)
    network.head.mean.copy_(features.mean(0))
    network.head.inverse_std.copy_(1 / (features.std(0) + 1e-6))
    blocks = range(position, position + 3)
    training = _training(network, found.cached, blocks, epochs=4, learning_rate=learning_rate, optimizer=optimizer)
    training.run()
    losses = [epoch.loss for epoch in training.epochs]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


def test_divergence_is_an_error() -> None:
    """NaN weights end the training in their epoch, with the learning rate in the message."""
    network = small_network()
    with torch.no_grad():
        network.head.linear.weight[0, 0] = float("inf")
    training = _training(
        network, activations_at(network, 7), range(7, len(network.block_names)), learning_rate=0.5, epochs=3
    )
    with pytest.raises(DivergenceError, match=r"diverged to NaN or infinity in epoch 1 at --learning-rate 0.5; use"):
        training.run()


def test_equal_seeds_give_equal_weights() -> None:
    """Two trainings on one machine give equal weights, whatever ran before; another seed gives others."""
    states = []
    for seed in (1, 1, 2):
        network = small_network("mobilenet_v3_small")
        source = activations_at(network, 10, views=2)
        torch.manual_seed(len(states))
        _training(network, source, range(10, 13), seed=seed).run()
        states.append(_copied(network))
    assert _same(states[0], states[1])
    assert not _same(states[0], states[2])


def test_streamed_activations_train_the_same_weights(tmp_path: Path) -> None:
    """Training on streamed and on cached activations is bit for bit equal."""
    network = small_network("resnet18")
    images = training_images(tmp_path)
    found = extracted_at(network, 3, images, tmp_path)
    states = []
    for source in (found.cached, found.streamed):
        trained = copy.deepcopy(network)
        _training(trained, source, range(3, 5)).run()
        states.append(trained.state_dict())
    assert _same(*states)
    assert not _same(states[0], network.state_dict())


def _with_other_labels(source: Cached) -> Cached:
    """The same activations with wrong labels: their loss increases as training proceeds."""
    return Cached(position=source.position, activations=source.activations, labels=(source.labels + 1) % 3)


@pytest.mark.parametrize("patience", [1, 2])
def test_training_stops_early_when_the_held_out_loss_stops_decreasing(patience: int) -> None:
    """It stops after `patience` epochs without a new lowest loss, with the best epoch's weights."""
    network = small_network("mobilenet_v3_small")
    source = activations_at(network, 10)
    training = _training(
        network, source, range(10, 13), epochs=9, held_out=_with_other_labels(source), patience=patience
    )
    seen: list[dict[str, Tensor]] = []
    training.run(lambda done: seen.append(_copied(done.network)))
    losses = [epoch.held_out_loss for epoch in training.epochs]
    best = losses.index(min(losses))
    assert len(losses) == best + 1 + patience < 9
    assert _same(network.state_dict(), seen[best])
    assert not _same(network.state_dict(), seen[-1])
    assert not network.training


def test_training_continues_while_the_held_out_loss_decreases() -> None:
    """The held-out loss is the cross-entropy without label smoothing."""
    network = small_network("resnet18")
    source, held_out = activations_at(network, 4, 48), activations_at(network, 4, 12, seed=1)
    training = _training(network, source, range(4, 5), epochs=3, learning_rate=1e-4, held_out=held_out, patience=3)
    training.run()
    losses = [epoch.held_out_loss for epoch in training.epochs]
    assert len(losses) == 3
    assert losses == sorted(losses, reverse=True)
    with torch.inference_mode():
        logits = network.run_tail(held_out.activations[:, 0].float(), 4)
    assert nn.functional.cross_entropy(logits, held_out.labels).item() == pytest.approx(losses[-1], rel=1e-4)


class _InterruptError(Exception):
    """Interrupts a training."""


def _stored(state: dict[str, object]) -> dict[str, object]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    ("backbone", "position", "options"),
    [
        ("mobilenet_v3_small", 10, {}),
        ("mobilenet_v3_small", 10, {"optimizer": "sgd", "class_weights": "balanced"}),
        ("resnet18", 4, {"mixup": 0.4}),
        ("efficientnet_b0", 6, {}),  # stochastic depth draws from torch's global generator
    ],
)
def test_an_interrupted_training_resumes_to_the_same_weights(
    backbone: str, position: int, options: dict[str, object]
) -> None:
    """Interrupted after two of four epochs, stored and resumed in another training: bit for bit equal."""
    network = small_network(backbone)
    source, blocks = activations_at(network, position, 16, views=2), range(position, len(network.block_names))
    uninterrupted = copy.deepcopy(network)
    whole = _training(uninterrupted, source, blocks, epochs=4, **options)
    whole.run()
    states: list[dict[str, object]] = []

    def stop(done: Training) -> None:
        if len(done.epochs) == 2:
            states.append(_stored(done.state()))
            raise _InterruptError

    with pytest.raises(_InterruptError):
        _training(copy.deepcopy(network), source, blocks, epochs=4, **options).run(stop)
    torch.manual_seed(12345)
    resumed = copy.deepcopy(network)
    training = _training(resumed, source, blocks, epochs=4, **options)
    training.restore(states[0])
    assert training.epochs == whole.epochs[:2]
    training.run()
    assert training.epochs == whole.epochs
    assert _same(resumed.state_dict(), uninterrupted.state_dict())
    assert not _same(resumed.state_dict(), network.state_dict())


def test_dropout_differs_between_epochs() -> None:
    """With stochastic depth, a learning rate of 0 and copies of one image, the losses of epochs differ."""
    network = small_network("swin_t")  # without batch statistics
    last = len(network.block_names) - 1
    one = activations_at(network, last, 1).activations
    repeated = one.repeat(16, *[1] * (one.ndim - 1))
    source = Cached(position=last, activations=repeated, labels=torch.zeros(16, dtype=torch.int64))
    training = _training(network, source, [last], batch_size=16, epochs=3)
    for group in training.optimizer.param_groups:
        group["lr"] = 0.0
    training.scheduler.base_lrs = [0.0] * len(training.scheduler.base_lrs)
    training.run()
    assert len({round(epoch.loss, 4) for epoch in training.epochs}) == 3


def test_a_resumed_training_remembers_the_best_epoch() -> None:
    """Resumed after the best epoch, it stops when it would have, with the best epoch's weights."""
    network = small_network("mobilenet_v3_small")
    source = activations_at(network, 10)
    options = {"epochs": 9, "held_out": _with_other_labels(source), "patience": 2}
    whole = _training(copy.deepcopy(network), source, range(10, 13), **options)
    states: list[dict[str, object]] = []
    whole.run(lambda done: states.append(_stored(done.state())))
    resumed = _training(copy.deepcopy(network), source, range(10, 13), **options)
    resumed.restore(states[-2])
    resumed.run()
    assert resumed.epochs == whole.epochs
    assert _same(resumed.network.state_dict(), whole.network.state_dict())
    finished = _training(copy.deepcopy(network), source, range(10, 13), **options)
    finished.restore(states[-1])
    finished.run(lambda _: pytest.fail("there was nothing left to train"))
    assert _same(finished.network.state_dict(), whole.network.state_dict())


def test_temperature_undoes_overconfidence() -> None:
    """Logits three times too large get a temperature near three, calibrated ones about one."""
    rng = np.random.default_rng(2)
    calibrated = torch.from_numpy(rng.normal(0, 1.5, (4000, 5))).float()
    torch.manual_seed(0)
    labels = torch.distributions.Categorical(logits=calibrated).sample()
    for factor in (0.5, 1.0, 3.0):
        evaluation = Evaluation(logits=calibrated * factor, labels=labels, images=(), skipped=())
        assert fit_temperature(evaluation) == pytest.approx(factor, rel=0.1)


def test_evaluation_is_in_float32_and_skips_damaged_files(tmp_path: Path) -> None:
    """Logits are float32, in the order of the images."""
    data = write_images(tmp_path / "data", 6)
    (data / "red" / "000.jpg").write_bytes(b"gone")
    images = read_dataset(data, val_fraction=0.2).splits["train"]
    evaluation = evaluate(small_network("resnet18"), images, SPEC, torch.device("cpu"))
    assert len(evaluation.images) + len(evaluation.skipped) == len(images)
    assert evaluation.logits.dtype == torch.float32
    assert evaluation.labels.tolist() == [image.label for image in evaluation.images]
    assert evaluation.accuracy == float(np.mean(evaluation.logits.argmax(1).numpy() == evaluation.labels.numpy()))


def test_images_are_flipped_if_requested(tmp_path: Path) -> None:
    """About half of the images are flipped with `flip`, and none without."""
    shares = {}
    for flip in (False, True):
        network = small_network()
        source = _source(network, 0, tmp_path / str(flip))
        schedule = Schedule(epochs=1, learning_rate=1e-3, blocks=range(len(network.block_names)), flip=flip)
        options = TuneOptions(batch_size=8)
        training = Training(network=network, source=source, schedule=schedule, options=options, precision=FLOAT32)
        seen: list[Tensor] = []
        normalized = network.normalized
        network.normalized = lambda inputs, keep=seen, apply=normalized: (keep.append(inputs), apply(inputs))[1]
        training.run()
        images = torch.cat([batch for batch in seen if batch.dtype == torch.uint8])
        known = {image.numpy().tobytes() for image in source.activations.flatten(0, 1)}
        flipped = {image.flip(1).numpy().tobytes() for image in source.activations.flatten(0, 1)}
        found = [image.numpy().tobytes() for image in images]
        assert all(one in known or one in flipped for one in found)
        shares[flip] = sum(one in flipped and one not in known for one in found) / len(found)
    assert shares[False] == 0
    assert 0.2 < shares[True] < 0.8


def test_images_are_rotated_if_requested(tmp_path: Path) -> None:
    """All four orientations occur with `quarter_turns`, and only the original one without."""
    for turns in (False, True):
        network = small_network()
        source = _source(network, 0, tmp_path / str(turns))
        blocks = range(len(network.block_names))
        schedule = Schedule(epochs=1, learning_rate=1e-3, blocks=blocks, quarter_turns=turns)
        options = TuneOptions(batch_size=8)
        training = Training(network=network, source=source, schedule=schedule, options=options, precision=FLOAT32)
        seen: list[Tensor] = []
        normalized = network.normalized
        network.normalized = lambda inputs, keep=seen, apply=normalized: (keep.append(inputs), apply(inputs))[1]
        training.run()
        known = source.activations.flatten(0, 1)
        orientations = [{image.rot90(turn, (0, 1)).numpy().tobytes() for image in known} for turn in range(4)]
        found = [image.numpy().tobytes() for batch in seen if batch.dtype == torch.uint8 for image in batch]
        assert all(any(one in known for known in orientations) for one in found)
        rotated = [any(one in known - orientations[0] for one in found) for known in orientations[1:]]
        assert rotated == [turns] * 3
