"""A window counts the latest images and raises an alarm for what chance does not explain."""

import threading

import numpy as np
import pytest

from unfreeze.contract.drift.reference import (
    BRIGHTNESS,
    CONFIDENCE,
    LABEL,
    OOD_SCORE,
    SIZE,
    DriftReference,
    measure,
    reference_of,
    sample,
)
from unfreeze.contract.drift.window import FEWEST_IMAGES, Window

CLASSES = 4


def _images(count: int, seed: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Draw images whose brightness and labels depend on each other, and probabilities."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(CLASSES, count, p=[0.4, 0.3, 0.2, 0.1])
    levels = np.clip(rng.normal(100 + 10 * labels + shift, 15), 0, 255)
    pixels = np.clip(rng.normal(levels[:, None, None, None], 20, (count, 32, 32, 3)), 0, 255).astype(np.uint8)
    confidence = rng.uniform(0.5, 1, count)
    probabilities = np.repeat((1 - confidence)[:, None] / (CLASSES - 1), CLASSES, axis=1)
    probabilities[np.arange(count), labels] = confidence
    return pixels, probabilities.astype(np.float32)


@pytest.fixture(scope="module")
def reference() -> DriftReference:
    """Of 400 validation images."""
    pixels, probabilities = _images(400, seed=0)
    return reference_of(measure(sample(pixels), probabilities), CLASSES)


def test_properties_are_those_of_pixels_and_probabilities() -> None:
    """The label and its probability; mean and deviation of the sampled values."""
    pixels = np.zeros((2, 40, 40, 3), np.uint8)
    pixels[1, 8, 8] = (30, 60, 90)
    pixels[1, 8, 7] = (40, 60, 80)
    found = measure(sample(pixels), np.array([[0.25, 0.75], [0.9, 0.1]], np.float32), np.array([3.5, -2], np.float32))
    values = np.array([30, 60, 90, *[0] * 9])
    assert found["label"].tolist() == [1, 0]
    assert found[OOD_SCORE].tolist() == [3.5, -2]
    assert found["confidence"] == pytest.approx([0.75, 0.9])
    assert found["brightness"] == pytest.approx([0, values.mean()])
    assert found["sharpness"] == pytest.approx([0, 20 / 12])
    assert found["contrast"] == pytest.approx([0, values.std()])


def test_a_window_counts_the_latest_images(reference: DriftReference) -> None:
    """Between nine tenths and all of its size; all of them while it is not full."""
    window = Window(reference, 100)
    pixels, probabilities = _images(250, seed=1)
    totals = []
    for at in range(250):
        window.add(pixels[at : at + 1], probabilities[at : at + 1])
        totals.append(int(window.counts()[LABEL].sum()))
    assert totals[:90] == list(range(1, 91))
    assert set(totals[100:]) == set(range(90, 100))
    expected = np.bincount(probabilities[160:250].argmax(1), minlength=CLASSES)
    assert window.counts()[LABEL].tolist() == expected.tolist()


def test_threads_lose_no_image(reference: DriftReference) -> None:
    """Instances add at the same time while metrics are read."""
    window, (pixels, probabilities) = Window(reference, 1_000_000), _images(50, seed=2)

    def add() -> None:
        for _ in range(100):
            window.add(pixels, probabilities)
            window.counts()

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: int(counts.sum()) for name, counts in window.counts().items()} == dict.fromkeys(
        (LABEL, CONFIDENCE, BRIGHTNESS, "contrast", "sharpness"), 20_000
    )


@pytest.mark.parametrize("images", [50, 200, 1000])
def test_only_a_shift_raises_an_alarm(reference: DriftReference, images: int) -> None:
    """Of twenty windows like the validation images none, of twenty brighter ones all, in brightness."""
    quiet, shifted = set(), []
    for seed in range(20):
        for shift, alarms in ((0.0, quiet), (40.0, shifted)):
            window = Window(reference, 10 * images)
            window.add(*_images(images, seed=100 + seed, shift=shift))
            found = {drift.name for drift in window.drift().quantities if drift.alarm}
            alarms.update(found) if isinstance(alarms, set) else alarms.append(found)
    assert quiet == set()
    assert [BRIGHTNESS in found for found in shifted] == [True] * 20


def test_few_images_raise_no_alarm(reference: DriftReference) -> None:
    """However different they are."""
    window = Window(reference, 1000)
    window.add(*_images(FEWEST_IMAGES - 1, seed=3, shift=100))
    assert not any(drift.alarm for drift in window.drift().quantities)
    assert {drift.images for drift in Window(reference, 1000).drift().quantities} == {0}
    assert not any(drift.alarm for drift in Window(reference, 1000).drift().quantities)


def test_sizes_are_counted_beside_images_even_if_all_of_the_reference_are_equal() -> None:
    """Much smaller images raise an alarm, images of the same size none."""
    pixels, probabilities = _images(400, seed=0)
    values = measure(sample(pixels), probabilities) | {SIZE: np.full(400, 256.0)}
    for size, alarm in (((512, 128), False), ((64, 64), True)):
        window = Window(reference_of(values, CLASSES), 1000)
        for at in range(200):
            window.add_size(size)
            window.add(pixels[at : at + 1], probabilities[at : at + 1])
        (found,) = (drift for drift in window.drift().quantities if drift.name == SIZE)
        assert (found.images, found.alarm) == (200, alarm)
