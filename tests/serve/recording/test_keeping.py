"""Recorded images stay within their limits, in a folder and in a bucket."""

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from support.images import COLORS, draw_image, encode
from support.manifests import MANIFEST

from unfreeze.contract.errors import OptionsError
from unfreeze.serve.recording.answered import Answered
from unfreeze.serve.recording.keeping import DROPPED, SEEN, STORED, KeptImages
from unfreeze.serve.recording.local_folder import LocalFolder
from unfreeze.serve.recording.queue import BoundedQueue
from unfreeze.serve.recording.selection import reasons_of, selected
from unfreeze.serve.recording.storage import Storage, open_storage

AMPLE, MONTH_S, DAY_S = 2**30, 30 * 86_400, 86_400


def _answered(seed: int, *reasons: str) -> Answered:
    probabilities = np.zeros(len(MANIFEST.labels), np.float32)
    probabilities[0] = 1
    return Answered(
        data=encode(draw_image(COLORS["red"], seed)),
        model="colors",
        version="1",
        manifest=MANIFEST,
        row=probabilities,
        reasons=reasons or ("unsure",),
        request_id="",
        time=time.time(),
    )


@pytest.fixture(params=["folder", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    """A folder, and fsspec's file system in memory."""
    opened = open_storage(str(tmp_path / "kept") if request.param == "folder" else f"memory://{uuid4().hex}/kept")
    opened.prepare()
    return opened


def _stored(storage: Storage) -> set[str]:
    return {Path(image.path).stem for image in storage.images()}


def _digest(answered: Answered) -> str:
    return hashlib.sha256(answered.data).hexdigest()


def test_an_image_is_stored_once(storage: Storage) -> None:
    """A second time it is counted, and its reasons are united."""
    kept = KeptImages(storage, AMPLE, MONTH_S)
    assert kept.add(_answered(1)) == STORED
    assert kept.add(_answered(1, "out of distribution"), 3) == SEEN
    document = json.loads(storage.read(f"{_answered(1).path()}.json") or b"")
    assert (document["seen"], document["reasons"]) == (4, ["unsure", "out of distribution"])
    assert _stored(storage) == {_digest(_answered(1))}


def test_more_than_fits_is_deleted_drawn_ones_first_then_the_oldest(storage: Storage) -> None:
    """An image that was stored before a drawn one outlives it; the newest is always there."""
    kinds = ["unsure", "random", "unsure", "random", "unsure"]
    answered = [_answered(seed, kind) for seed, kind in enumerate(kinds)]
    size = max(len(one.data) for one in answered) + 1000
    kept = KeptImages(storage, 4 * size, MONTH_S)
    for one in answered:
        kept.add(one)
        time.sleep(0.01)
    found = _stored(storage)
    assert _digest(answered[1]) not in found
    assert {_digest(answered[0]), _digest(answered[2]), _digest(answered[4])} <= found
    for seed in range(10, 16):
        kept.add(_answered(seed, "unsure"))
        time.sleep(0.01)
        assert _digest(_answered(seed)) in _stored(storage)
        assert sum(image.size for image in storage.images()) <= 4 * size
    assert not _stored(storage) & {_digest(one) for one in answered[:3]}


def test_an_image_larger_than_everything_is_dropped(storage: Storage) -> None:
    """And nothing is deleted for it."""
    kept = KeptImages(storage, AMPLE, MONTH_S)
    kept.add(_answered(1))
    assert KeptImages(storage, 1000, MONTH_S).add(_answered(2)) == DROPPED
    assert _stored(storage) == {_digest(_answered(1))}


def test_old_images_are_deleted(tmp_path: Path) -> None:
    """With their descriptions, by the time at which they were stored, also by another process before."""
    storage = LocalFolder(str(tmp_path))
    storage.prepare()
    kept = KeptImages(storage, AMPLE, MONTH_S)
    for seed in (1, 2):
        kept.add(_answered(seed))
    old = tmp_path / f"{_answered(1).path()}.jpg"
    os.utime(old, (time.time() - MONTH_S - DAY_S,) * 2)
    KeptImages(storage, AMPLE, MONTH_S).sweep()
    assert _stored(storage) == {_digest(_answered(2))}
    assert len(list(tmp_path.glob("*/*/??/*"))) == 2


def test_what_killed_writers_and_people_leave_behind_is_cleared(tmp_path: Path) -> None:
    """Abandoned temporary files, descriptions without image; an image without description is described anew."""
    storage = LocalFolder(str(tmp_path))
    storage.prepare()
    kept = KeptImages(storage, AMPLE, MONTH_S)
    for seed in (1, 2, 3):
        kept.add(_answered(seed))
    first, second, third = (tmp_path / _answered(seed).path() for seed in (1, 2, 3))
    first.with_suffix(".jpg").unlink()
    second.with_suffix(".json").unlink()
    third.with_suffix(".json").write_text("{")
    temporary = second.with_name(".x.jpg.0.new")
    temporary.touch()
    os.utime(temporary, (time.time() - DAY_S,) * 2)
    kept.sweep()
    assert {path.name for path in tmp_path.glob("*/*/??/*")} == {
        second.with_suffix(".jpg").name,
        third.with_suffix(".jpg").name,
        third.with_suffix(".json").name,
    }
    assert [kept.add(_answered(seed)) for seed in (1, 2, 3)] == [STORED] * 3
    for path in (first, second, third):
        assert json.loads(path.with_suffix(".json").read_text())["seen"] == 1


def test_processes_together_stay_within_the_size(tmp_path: Path) -> None:
    """Two writers of one folder, each with its own object: what one stores counts for the other."""
    size = 6 * (len(_answered(0).data) + 1200)

    def write(first: int) -> None:
        kept = KeptImages(LocalFolder(str(tmp_path)), size, MONTH_S)
        for seed in range(first, first + 15):
            kept.add(_answered(seed))

    LocalFolder(str(tmp_path)).prepare()
    threads = [threading.Thread(target=write, args=(first,)) for first in (0, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = sum(image.size for image in LocalFolder(str(tmp_path)).images())
    assert size / 3 < total <= size


def test_a_writer_waits_for_the_one_before(tmp_path: Path) -> None:
    """While another process has the folder's lock, nothing is stored."""
    storage = LocalFolder(str(tmp_path))
    storage.prepare()
    writing = threading.Thread(target=KeptImages(LocalFolder(str(tmp_path)), AMPLE, MONTH_S).add, args=(_answered(1),))
    with storage.locked():
        writing.start()
        writing.join(0.3)
        assert writing.is_alive()
        assert _stored(storage) == set()
    writing.join()
    assert _stored(storage) == {_digest(_answered(1))}


def test_the_folder_is_its_owners_alone_and_explains_itself(tmp_path: Path) -> None:
    """Images of callers are nobody else's business."""
    LocalFolder(str(tmp_path / "kept")).prepare()
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o700
    assert "unfreeze review" in (tmp_path / "kept" / "README.txt").read_text()


def test_a_url_of_an_unknown_protocol_is_an_error(tmp_path: Path) -> None:
    """With the option's name."""
    del tmp_path
    with pytest.raises(OptionsError, match="--record nowhere://bucket cannot be used"):
        open_storage("nowhere://bucket").prepare()


def test_reasons_name_what_is_known() -> None:
    """What is not measured is no reason."""
    assert reasons_of() == ()
    assert reasons_of(unsure=False, out_of_distribution=True, disagreement=True) == (
        "out of distribution",
        "disagreement",
    )
    rows = np.array([[0.9, 0.1], [0.6, 0.4], [0.9, 0.1]], np.float32)
    assert selected(rows, 0.7, 0.0) == [(1, ("unsure",))]
    assert selected(rows, None, 0.0, out_of_distribution=[True, False, False]) == [(0, ("out of distribution",))]
    assert selected(rows, 0.7, 1.0)[0] == (0, ("random",))
    share = sum(len(selected(rows, None, 0.2)) for _ in range(2000)) / 6000
    assert 0.17 < share < 0.23


def test_the_queue_is_bounded_by_number_and_bytes() -> None:
    """What does not fit is refused; a closed queue is emptied and then ends."""
    queue = BoundedQueue[int](2, 100)
    assert [queue.offer(1, 60), queue.offer(2, 60), queue.offer(3, 40), queue.offer(4, 0)] == [True, False, True, False]
    assert queue.take(0) == [1, 3]
    assert queue.take(0) == []
    assert queue.offer(5, 100)
    queue.close()
    assert not queue.offer(6, 0)
    assert queue.take(0) == [5]
    assert queue.take(0) is None
