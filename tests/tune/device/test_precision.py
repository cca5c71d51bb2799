"""Precision: the requested type is used, and gradient scaling does not change training."""

import copy
import io
from collections.abc import Collection
from pathlib import Path

import pytest
import torch
from support.images import write_images
from support.tuning import BFLOAT16, FLOAT32, activations_at, small_network
from torch import Tensor

from unfreeze.contract.errors import DivergenceError, UnfreezeError
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.device.precision import CPU, Precision, choose_precision
from unfreeze.tune.features.activations import Cached
from unfreeze.tune.options import PrecisionName, TuneOptions
from unfreeze.tune.run import fine_tune
from unfreeze.tune.training.optimization import Schedule, shuffled_batches
from unfreeze.tune.training.train import Training

FLOAT16 = Precision(device=CPU, dtype=torch.float16)
CUDA = Precision(device=torch.device("cuda"), dtype=torch.bfloat16)


def _training(
    network: Network, source: Cached, blocks: Collection[int], precision: Precision, **options: object
) -> Training:
    return Training(
        network=network,
        source=source,
        schedule=Schedule(epochs=2, learning_rate=1e-3, blocks=blocks),
        options=TuneOptions(batch_size=8, **options),
        precision=precision,
    )


def _weights(training: Training) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in training.parameters])


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_a_requested_precision_is_used(name: PrecisionName, dtype: torch.dtype) -> None:
    """On any hardware, "bf16" and "fp32" select that type on the requested device."""
    assert choose_precision("cpu", name) == Precision(device=CPU, dtype=dtype)


def test_rejects_float16_on_a_cpu() -> None:
    """The error names the alternatives."""
    with pytest.raises(UnfreezeError, match=r"--precision fp16 requires a GPU.*use bf16, fp32 or auto"):
        choose_precision("cpu", "fp16")


def test_a_run_uses_and_records_the_requested_precision(tmp_path: Path) -> None:
    """Also a precision that "auto" would not choose; the metrics name it."""
    name, dtype = ("fp32", "float32") if choose_precision("cpu").dtype == torch.bfloat16 else ("bf16", "bfloat16")
    options = TuneOptions(backbone="squeezenet1_1", weights="none", device="cpu", recipe="probe", precision=name)
    metrics = fine_tune(write_images(tmp_path / "data", 4), tmp_path / "run", options)
    assert metrics["precision"] == dtype
    assert metrics["options"]["precision"] == name


def _cudnn() -> tuple[bool, bool, bool, bool]:
    cudnn = torch.backends.cudnn
    return cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32


@pytest.mark.parametrize("benchmark", [False, True])
def test_cudnn_benchmarks_its_kernels_for_many_batches(benchmark: bool) -> None:  # noqa: FBT001 - a parameter
    """On CUDA from 200 batches on; TF32 is disabled; settings are restored, also after an error."""
    was = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = benchmark
    try:
        before = _cudnn()
        for rounds, tried in ((0, False), (199, False), (200, True)):
            with CUDA.kernels(rounds):
                assert _cudnn() == (True, tried, False, False)
            assert _cudnn() == before
        with pytest.raises(ZeroDivisionError), CUDA.kernels(200):
            raise ZeroDivisionError
        assert _cudnn() == before
        with FLOAT32.kernels(200):
            assert _cudnn() == before
    finally:
        torch.backends.cudnn.benchmark = was


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_scaled_gradients_are_unscaled_before_they_are_clipped(optimizer: str) -> None:
    """Powers of two scale float32 without rounding: with a growing scale, weights are bit for bit equal."""
    network = small_network()
    source = activations_at(network, 8)
    plain, scaled = (_training(copy.deepcopy(network), source, [8], FLOAT32, optimizer=optimizer) for _ in range(2))
    scaled.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    for training in (plain, scaled):
        training.run()
    assert scaled.scaler.get_scale() == 2.0**13
    assert torch.equal(_weights(plain), _weights(scaled))
    assert plain.epochs == scaled.epochs


@pytest.mark.parametrize("overflowing", [0, 1])
def test_a_step_with_overflowing_gradients_is_skipped(overflowing: int) -> None:
    """Weights, optimizer and learning rate do not change, and the scale is halved; also in the first step."""
    network = small_network("resnet18")
    source = activations_at(network, 5)
    training = _training(network, source, (), FLOAT16)
    step = 0
    network.head.linear.bias.register_hook(lambda own: own * float("inf") if step == overflowing else own)
    indices = shuffled_batches(24, 1, 8, training.generator)
    for step, (chosen, batch) in enumerate(zip(indices, source.batches(indices), strict=True)):
        before, taken, scale = _weights(training), training.scheduler.last_epoch, training.scaler.get_scale()
        loss = training._step(batch, chosen)
        assert loss.isfinite()
        skipped = step == overflowing
        assert torch.equal(_weights(training), before) == skipped
        assert training.scheduler.last_epoch == taken + (not skipped)
        assert training.scaler.get_scale() == (scale / 2 if skipped else scale)
    assert training.scheduler.last_epoch == 2
    assert {int(state["step"]) for state in training.optimizer.state.values()} == {2}


@pytest.mark.parametrize("precision", [BFLOAT16, FLOAT16], ids=["bfloat16", "float16"])
def test_16_bit_types_train_like_float32(precision: Precision) -> None:
    """Losses differ, by at most two percent; weights stay float32."""
    network = small_network()
    source = activations_at(network, 8, 32)
    exact, narrow = (_training(copy.deepcopy(network), source, [8], one) for one in (FLOAT32, precision))
    for training in (exact, narrow):
        training.run()
    losses, found = ([epoch.loss for epoch in training.epochs] for training in (exact, narrow))
    assert found == pytest.approx(losses, rel=0.02)
    assert found != losses
    assert losses[1] < losses[0]
    assert {parameter.dtype for parameter in narrow.network.parameters()} == {torch.float32}


def test_a_resumed_training_restores_the_scale() -> None:
    """The scaler's state is part of the training's state."""
    network = small_network("resnet18")
    source = activations_at(network, 5)
    training = _training(copy.deepcopy(network), source, (), FLOAT16)
    training.scaler.load_state_dict(training.scaler.state_dict() | {"scale": 512.0})
    training.run()
    file = io.BytesIO()
    torch.save(training.state(), file)
    file.seek(0)
    other = _training(copy.deepcopy(network), source, (), FLOAT16)
    other.restore(torch.load(file, weights_only=True))
    assert other.scaler.state_dict() == training.scaler.state_dict()
    assert other.scaler.get_scale() == 512


def test_float16_overflow_suggests_float32() -> None:
    """Divergence in float16 suggests --precision fp32; in float32 it does not."""
    network = small_network("resnet18")
    torch.nn.init.constant_(network.head.linear.weight, float("inf"))
    source = activations_at(network, 5)
    with pytest.raises(DivergenceError, match=r"use a smaller one, or use --precision fp32$"):
        _training(copy.deepcopy(network), source, (), FLOAT16).run()
    with pytest.raises(DivergenceError, match=r"use a smaller one$"):
        _training(network, source, (), FLOAT32).run()
