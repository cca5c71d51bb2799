"""A GPU's memory that runs out: fewer images at a time where that changes nothing, else an error with advice."""

from pathlib import Path

import pytest
import torch
from support.runs import SPEC
from support.tuning import FLOAT32, activations_at, extracted_at, placement_in, small_network, training_images
from torch import Tensor, nn

from unfreeze.contract.errors import UnfreezeError
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.device.memory import in_halves
from unfreeze.tune.device.precision import CPU
from unfreeze.tune.evaluation.evaluate import evaluate
from unfreeze.tune.features.cache import advance_cache, pooled_features
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.training.train import Schedule, Training

OUT = "CUDA out of memory. Tried to allocate 20.00 GiB."


def _scarce(network: Network, most: int) -> Network:
    """Let memory run out in the last block wherever more images than `most` come there together."""

    def refuse(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        if len(given[0]) > most:
            raise torch.OutOfMemoryError(OUT)

    network._blocks[-1].modules[0].register_forward_pre_hook(refuse)
    return network


def test_work_is_done_in_halves_where_the_whole_is_too_much() -> None:
    """Eleven images, at most three at a time: all of them once, in order, and the whole is tried first."""
    tried = []

    def work(batch: Tensor) -> list[int]:
        tried.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError(OUT)
        return batch.tolist()

    found = in_halves(work, torch.arange(11))
    assert [number for part in found for number in part] == list(range(11))
    assert [len(part) for part in found] == [3, 3, 3, 2]
    assert tried == [11, 6, 3, 3, 5, 3, 2]
    assert in_halves(work, torch.arange(2)) == [[0, 1]]


@pytest.mark.parametrize("size", [1, 5])
def test_not_one_image_is_an_error_that_says_what_to_do(size: int) -> None:
    """It names torch's own words and the options that help; other errors pass as they are."""

    def work(_: Tensor) -> None:
        raise torch.OutOfMemoryError(OUT)

    with pytest.raises(UnfreezeError, match=r"single image \(CUDA out of memory.*smaller --backbone, or --device cpu"):
        in_halves(work, torch.arange(size))
    with pytest.raises(ZeroDivisionError):
        in_halves(lambda batch: len(batch) / 0, torch.arange(size))


def test_one_pass_gathers_the_same_with_little_memory(tmp_path: Path) -> None:
    """What is kept, the features and the survey are those of whole batches: nothing is lost and nothing noted twice."""
    images = training_images(tmp_path)
    ample, scarce = (
        extracted_at(network, 3, images, tmp_path, survey=True)
        for network in (small_network("resnet18"), _scarce(small_network("resnet18"), 3))
    )
    assert torch.equal(ample.surveyed, scarce.surveyed)
    assert ample.borders.keys() == scarce.borders.keys()
    pairs = [(ample.kept.activations.float(), scarce.kept.activations.float()), (ample.features, scarce.features)]
    for one, other in [*pairs, *((ample.borders[key], scarce.borders[key]) for key in ample.borders)]:
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)


def test_frozen_blocks_and_evaluation_run_with_little_memory(tmp_path: Path) -> None:
    """A cache taken on, pooled features and logits are those of whole batches."""
    images = training_images(tmp_path)
    found = []
    for network in (small_network("resnet18"), _scarce(small_network("resnet18"), 1)):
        source = activations_at(network, 3, 9)
        taken_on = advance_cache(network, source, 5, FLOAT32, placement_in(tmp_path)).activations.float()
        logits = evaluate(network, images, SPEC, CPU).logits
        found.append((taken_on, pooled_features(network, source, FLOAT32), logits))
    for one, other in zip(*found, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("batch_size", "advice"), [(8, "give a smaller --batch-size than 8, a --cut nearer"), (2, "give a --cut nearer")]
)
def test_training_says_which_batch_was_too_large(batch_size: int, advice: str) -> None:
    """Training with fewer images a step is another training, so it ends, with the size and what to do."""
    network = _scarce(small_network("resnet18"), 1)
    training = Training(
        network=network,
        source=activations_at(network, 4),
        schedule=Schedule(epochs=1, rate=1e-3, blocks=[4]),
        options=TuneOptions(batch_size=batch_size),
        precision=FLOAT32,
    )
    with pytest.raises(UnfreezeError, match=rf"batches of {batch_size} images \(CUDA out of memory.*\); {advice}"):
        training.run()
