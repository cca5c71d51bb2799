"""Images whose fingerprints are stored are not decoded again, and an inspection finds the same."""

import hashlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from support.deep_images import in_12_of_16_bits, write_deep_images
from support.images import write_images
from support.stores import AMPLE

from unfreeze.contract.images.depth import PixelRange
from unfreeze.contract.reporting import Silent
from unfreeze.tune.data.dataset import Dataset, read_dataset
from unfreeze.tune.data.inspection.fingerprints import take_fingerprints
from unfreeze.tune.data.inspection.inspection import inspect_dataset
from unfreeze.tune.data.inspection.stored import Fingerprint, StoredFingerprints
from unfreeze.tune.store.store import FeatureStore


def _inspect(dataset: Dataset, folder: Path | None, deep_range: str = "auto") -> dict[str, object]:
    with FeatureStore(AMPLE if folder else 0, folder or Path()) as store:
        return asdict(inspect_dataset(dataset, 3, Silent(), deep_range, store))


@pytest.mark.parametrize("deep_range", ["auto", "full", "0,1000"])
def test_an_inspection_of_stored_images_finds_the_same(deep_range: str, tmp_path: Path) -> None:
    """The range of deep images, copies across splits, and files that do not decode, the first and the second time."""
    folder = write_deep_images(tmp_path / "data", in_12_of_16_bits)
    copy = folder / "train" / "vertical" / "00.png"
    (folder / "val" / "vertical" / "copy.png").write_bytes(copy.read_bytes())
    (folder / "train" / "vertical" / "broken.png").write_bytes(b"no image")
    dataset = read_dataset(folder)
    expected = _inspect(dataset, None, deep_range)
    assert len(expected["digests"]) == 41
    assert _inspect(dataset, tmp_path / "features", deep_range) == expected
    assert _inspect(dataset, tmp_path / "features", deep_range) == expected


def test_a_stored_fingerprint_is_used_instead_of_the_image(tmp_path: Path) -> None:
    """Found by the file's bytes: one that is stored for them is taken as it is."""
    write_images(tmp_path / "data" / "train", 4)
    dataset = read_dataset(tmp_path / "data")
    path = tmp_path / "data" / "train" / "red" / "002.jpg"
    thumbnail = np.full((16, 16, 3), 7, np.uint8)
    used = PixelRange(mode="I;16", low=5.0, high=900.0, bits_used=10)
    digest = hashlib.sha256(path.read_bytes()).digest()
    with FeatureStore(AMPLE, tmp_path / "features") as store:
        stored = StoredFingerprints(store, keep_full=False)
        stored.add([Fingerprint(digest=digest, thumbnail=thumbnail, used=used, size=(640, 480))])
    with FeatureStore(AMPLE, tmp_path / "features") as store:
        prints, skipped = take_fingerprints(dataset, "auto", lambda _: None, store)
    (row,) = [row for row, image in enumerate(prints.images) if image.path == path]
    assert skipped == ()
    assert np.array_equal(prints.thumbnails[row], thumbnail)
    assert [one for one in prints.ranges if one is not None] == [used]
    assert prints.digests[row] == digest


def test_damaged_fingerprints_are_taken_again(tmp_path: Path) -> None:
    """A segment that becomes unreadable between its index and its rows costs an inspection without the store."""
    write_images(tmp_path / "data" / "train", 4)
    dataset = read_dataset(tmp_path / "data")
    expected = _inspect(dataset, None)
    _inspect(dataset, tmp_path / "features")
    (segment,) = (tmp_path / "features").rglob("*.safetensors")
    content = bytearray(segment.read_bytes())
    content[-1] ^= 1
    segment.write_bytes(content)
    assert _inspect(dataset, tmp_path / "features") == expected
