"""A GPU that runs out of memory: smaller batches where that does not change the result, else an error with advice."""

from pathlib import Path

import pytest
import torch
from support.runs import SPEC
from support.tuning import FLOAT32, activations_at, extracted_at, placement_in, small_network, training_images
from torch import Tensor, nn

from unfreeze.contract.errors import UnfreezeError
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.device.memory import halve_on_oom
from unfreeze.tune.device.precision import CPU
from unfreeze.tune.evaluation.evaluate import evaluate
from unfreeze.tune.features.cache import advance_cache, pooled_features
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.training.optimization import Schedule
from unfreeze.tune.training.train import Training

OUT = "CUDA out of memory. Tried to allocate 20.00 GiB."


def _scarce(network: Network, most: int) -> Network:
    """Make the last block run out of memory for more than `most` images."""

    def refuse(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        if len(given[0]) > most:
            raise torch.OutOfMemoryError(OUT)

    network.model.get_submodule(network._blocks[-1].modules[0]).register_forward_pre_hook(refuse)
    return network


def test_a_batch_is_halved_until_it_fits() -> None:
    """Eleven images, at most three at a time: each of them once, in order; the whole batch is tried first."""
    tried = []

    def work(batch: Tensor) -> list[int]:
        tried.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError(OUT)
        return batch.tolist()

    found = halve_on_oom(work, torch.arange(11))
    assert [number for results in found for number in results] == list(range(11))
    assert [len(results) for results in found] == [3, 3, 3, 2]
    assert tried == [11, 6, 3, 3, 5, 3, 2]
    assert halve_on_oom(work, torch.arange(2)) == [[0, 1]]


@pytest.mark.parametrize("size", [1, 5])
def test_too_little_memory_for_one_image_is_an_error_with_advice(size: int) -> None:
    """The message quotes torch and names options; other errors are passed on."""

    def work(_: Tensor) -> None:
        raise torch.OutOfMemoryError(OUT)

    with pytest.raises(UnfreezeError, match=r"single image \(CUDA out of memory.*smaller --backbone or --device cpu"):
        halve_on_oom(work, torch.arange(size))
    with pytest.raises(ZeroDivisionError):
        halve_on_oom(lambda batch: len(batch) / 0, torch.arange(size))


def test_one_pass_extracts_the_same_with_little_memory(tmp_path: Path) -> None:
    """Activations, features and the survey are those of whole batches: nothing is lost or repeated."""
    images = training_images(tmp_path)
    ample, scarce = (
        extracted_at(network, 3, images, tmp_path, survey=True)
        for network in (small_network("resnet18"), _scarce(small_network("resnet18"), 3))
    )
    assert torch.equal(ample.surveyed, scarce.surveyed)
    assert ample.borders.keys() == scarce.borders.keys()
    pairs = [(ample.cached.activations.float(), scarce.cached.activations.float()), (ample.features, scarce.features)]
    for one, other in [*pairs, *((ample.borders[key], scarce.borders[key]) for key in ample.borders)]:
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)


def test_frozen_blocks_and_evaluation_run_with_little_memory(tmp_path: Path) -> None:
    """An advanced cache, pooled features and logits are those of whole batches."""
    images = training_images(tmp_path)
    found = []
    for network in (small_network("resnet18"), _scarce(small_network("resnet18"), 1)):
        source = activations_at(network, 3, 9)
        advanced = advance_cache(network, source, 5, FLOAT32, placement_in(tmp_path)).activations.float()
        logits = evaluate(network, images, SPEC, CPU).logits
        found.append((advanced, pooled_features(network, source, FLOAT32), logits))
    for one, other in zip(*found, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("batch_size", "advice"), [(8, "use a --batch-size smaller than 8, a --cut nearer"), (2, "use a --cut nearer")]
)
def test_training_reports_the_batch_size_that_is_too_large(batch_size: int, advice: str) -> None:
    """A smaller batch would change the result, so training ends with advice."""
    network = _scarce(small_network("resnet18"), 1)
    training = Training(
        network=network,
        source=activations_at(network, 4),
        schedule=Schedule(epochs=1, learning_rate=1e-3, blocks=[4]),
        options=TuneOptions(batch_size=batch_size),
        precision=FLOAT32,
    )
    with pytest.raises(
        UnfreezeError, match=rf"train with {batch_size} images in a batch \(CUDA out of memory.*\); {advice}"
    ):
        training.run()
