"""What a review reads, in which order it shows images, and what its decisions become."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.cli import run_cli
from support.images import write_images
from support.recorded import LABELS, drawn, record

from unfreeze.contract.errors import OptionsError, UnfreezeError
from unfreeze.review.decisions import LABEL, NONE, SKIP, locked
from unfreeze.review.labeled import label_problem
from unfreeze.review.merge import merge
from unfreeze.review.recorded import read_recording
from unfreeze.review.session import DecisionError, Session
from unfreeze.tune.data.dataset import read_dataset

SURE, UNSURE, TORN = (0.98, 0.01, 0.01), (0.5, 0.3, 0.2), (0.41, 0.4, 0.19)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """Four images of one model."""
    scores = (SURE, UNSURE, TORN, UNSURE)
    return record(tmp_path / "recorded", [(drawn(seed), score) for seed, score in enumerate(scores)])


def _session(recorded: Path, out: str = "labeled") -> Session:
    return Session(read_recording(recorded), recorded.with_name(out))


def _tree(folder: Path) -> dict[str, set[str]]:
    return {path.name: {file.stem for file in path.iterdir()} for path in folder.iterdir() if any(path.iterdir())}


def test_the_least_certain_image_comes_first_and_near_copies_last(tmp_path: Path) -> None:
    """Of thirty near copies with the smallest margins one is shown first, then all twenty others, then the copies."""
    copies = [drawn(1000, shift % 3) + bytes(shift) for shift in range(30)]
    others = [drawn(seed) for seed in range(1, 21)]
    images = [(data, TORN) for data in copies] + [(data, UNSURE) for data in others]
    session = Session(read_recording(record(tmp_path / "recorded", images)), tmp_path / "labeled")
    shown = []
    for _ in range(50):
        digest = session.state()["image"]["digest"]
        shown.append(digest)
        session.decide(digest, NONE)
    assert shown[0] in set(map(_digest, copies))
    assert len(set(shown)) == 50
    assert sum(digest in set(map(_digest, copies)) for digest in shown[:21]) == 1
    assert session.state()["image"] is None


def test_margins_order_what_is_equally_different(recorded: Path) -> None:
    """The first image is the one with the smallest margin."""
    assert _session(recorded).state()["image"]["digest"] == _digest(drawn(2))


def test_decisions_become_a_labeled_folder_at_once(recorded: Path) -> None:
    """Hard links by label; none and skip leave nothing; a new label is a new folder; undo takes back."""
    session, out = _session(recorded), recorded.with_name("labeled")
    digests = [_digest(drawn(seed)) for seed in range(4)]
    session.decide(digests[0], LABEL, "rose")
    session.decide(digests[1], LABEL, "poppy")
    session.decide(digests[2], NONE)
    state = session.decide(digests[3], SKIP)
    assert _tree(out) == {"rose": {digests[0]}, "poppy": {digests[1]}}
    assert (out / "rose" / f"{digests[0]}.png").stat().st_nlink == 2
    assert (state["image"], state["left"], state["labeled"], state["none"]) == (None, 1, 2, 1)
    assert state["labels"] == [*LABELS, "poppy"]
    for left in (digests[3], digests[2], digests[1]):
        assert session.undo()["image"]["digest"] == left
    assert _tree(out) == {"rose": {digests[0]}}
    session.decide(digests[0], LABEL, "tulip")
    assert _tree(out) == {"tulip": {digests[0]}}
    session.undo()
    assert _tree(out) == {"rose": {digests[0]}}


def test_a_review_continues_after_a_crash(recorded: Path) -> None:
    """Every decision is in the file; a line that was cut off, and a folder that lags behind, do no harm."""
    session, out = _session(recorded), recorded.with_name("labeled")
    digests = [_digest(drawn(seed)) for seed in range(4)]
    session.decide(digests[0], LABEL, "rose")
    session.decide(digests[1], LABEL, "daisy")
    session.undo()
    session.decide(digests[1], LABEL, "tulip")
    session.decide(digests[2], SKIP)
    log = recorded / "flowers" / "decisions.jsonl"
    assert [json.loads(line)["decision"] for line in log.read_text().splitlines()] == [
        *("label", "label", "undo", "label", "skip")
    ]
    log.write_bytes(log.read_bytes() + b'{"image": "' + digests[3].encode())
    (out / "rose" / f"{digests[0]}.png").rename(out / "tulip" / f"{digests[0]}.png")
    (out / "tulip" / f"{digests[1]}.png").unlink()
    (out / "tulip" / "own.png").write_bytes(drawn(9))
    again = _session(recorded)
    assert _tree(out) == {"rose": {digests[0]}, "tulip": {digests[1], "own"}}
    assert again.state()["left"] == 2
    assert {again.state()["image"]["digest"], again.state()["next"]} == {digests[2], digests[3]}
    again.decide(digests[3], LABEL, "rose")
    assert _session(recorded).summary().labels == {"rose": 2, "tulip": 1}
    assert _session(recorded).summary().agreed == 0


def test_labels_that_cannot_be_folders_are_refused(recorded: Path) -> None:
    """Before anything is written: nothing leaves the labeled folder."""
    session = _session(recorded)
    for label in ("", " ", "..", ".hidden", "a/b", "a\\b", "a\nb", "train", "Val", "__MACOSX", "x" * 300, "\ud800"):
        assert label_problem(label) is not None
        with pytest.raises(DecisionError, match="cannot be a label"):
            session.decide(_digest(drawn(0)), LABEL, label)
    assert label_problem("Bellis perennis (white)") is None
    assert session.summary().labeled == 0
    assert not (recorded / "flowers" / "decisions.jsonl").exists()
    other = record(recorded.with_name("other"), [(drawn(0), (1.0, 0.0))], labels=("a/b", "c"))
    with pytest.raises(OptionsError, match="'a/b' cannot be the name of a folder: it has a slash"):
        _session(other)


def test_unknown_images_and_those_that_are_gone_are_refused(recorded: Path) -> None:
    """An image that the server has deleted meanwhile can be skipped."""
    session, digest = _session(recorded), _digest(drawn(0))
    with pytest.raises(DecisionError, match="no such image"):
        session.decide("0" * 64, LABEL, "rose")
    with pytest.raises(DecisionError, match="no such image"):
        session.decide(digest, "delete")
    next((recorded / "flowers" / "1").rglob(f"{digest}.png")).unlink()
    with pytest.raises(DecisionError, match="deleted meanwhile"):
        session.decide(digest, LABEL, "rose")
    assert session.decide(digest, SKIP)["labeled"] == 0


def test_broken_files_are_left_out_with_the_reason(recorded: Path) -> None:
    """Descriptions that are cut off, of another form or without image, images without description, no images."""
    folder = recorded / "flowers" / "1" / "ab"
    folder.mkdir(exist_ok=True)
    good = json.loads(next((recorded / "flowers" / "1").glob("??/*.json")).read_bytes())
    broken: dict[str, bytes] = {
        "0": b"{",
        "1": b"[]",
        "2": json.dumps(good | {"labels": []}).encode(),
        "3": json.dumps(good | {"labels": [{"label": 5, "score": 1}]}).encode(),
        "4": json.dumps({key: value for key, value in good.items() if key != "seen"}).encode(),
        "5": b"[" * 100_000,
        "6": b"\xff\xfe",
    }
    for name, content in broken.items():
        (folder / f"{name * 64}.json").write_bytes(content)
        (folder / f"{name * 64}.png").write_bytes(drawn(7))
    (folder / f"{'7' * 64}.json").write_text(json.dumps(good))  # its image is missing
    (folder / f"{'8' * 64}.png").write_bytes(drawn(8))  # not described yet
    (folder / ".x.new").touch()
    (folder / f"{'9' * 64}.json").write_text(json.dumps(good))
    (folder / f"{'9' * 64}.jpg").write_bytes(drawn(9)[:60])  # cannot be decoded
    recording = read_recording(recorded)
    assert len(recording.problems) == 8
    session = Session(recording, recorded.with_name("labeled"))
    shown = set()
    while (image := session.state()["image"]) is not None:
        shown.add(image["digest"])
        session.decide(image["digest"], NONE)
    assert shown == {_digest(drawn(seed)) for seed in range(4)}
    assert session.unusable().keys() == {"9" * 64}
    assert session.summary().left == 0


def test_an_image_that_two_versions_answered_is_shown_once(recorded: Path) -> None:
    """With the answer of the newer one, also of version 10 after 9."""
    record(recorded, [(drawn(0), TORN)], version="9")
    record(recorded, [(drawn(0), UNSURE)], version="10", labels=(*LABELS[:2], "lily"))
    recording = read_recording(recorded)
    assert len(recording.images) == 4
    assert recording.images[_digest(drawn(0))].version == "10"
    assert recording.labels == ("daisy", "rose", "lily", "tulip")


def test_one_review_at_a_time(recorded: Path) -> None:
    """The second is told of the first; the lock ends with its process."""
    folder = recorded / "flowers"
    with (
        locked(folder),
        pytest.raises(UnfreezeError, match=f"being reviewed already, by process {os.getpid()}"),
        locked(folder),
    ):
        pass
    code = (
        "import os\nfrom pathlib import Path\nfrom unfreeze.review.decisions import locked\n"
        f"with locked(Path({str(folder)!r})): os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    with locked(folder):
        pass


def test_a_dataset_is_merged_with_its_own_splits(recorded: Path, tmp_path: Path) -> None:
    """`tune` sees the same validation images as before, and the reviewed ones among those for training."""
    data, out = write_images(tmp_path / "data", 10), recorded.with_name("labeled")
    (data / "red" / "deep").mkdir()
    (data / "red" / "000.jpg").rename(data / "red" / "deep" / "001.jpg")  # a name that is there twice
    session = _session(recorded)
    session.decide(_digest(drawn(0)), LABEL, "red")
    assert (out / "red").is_dir()
    for _ in range(2):
        assert merge(data, out) == {"train": 24, "val": 6}
        _session(recorded)  # moves what was labeled before to the images for training
        found, before = read_dataset(out), read_dataset(data)
        names = {image.path.read_bytes() for image in found.splits["val"]}
        assert names == {image.path.read_bytes() for image in before.splits["val"]}
        training = {image.path.read_bytes() for image in found.splits["train"]}
        assert training == {image.path.read_bytes() for image in before.splits["train"]} | {drawn(0)}
        assert not found.skipped


def test_of_ten_thousand_images_few_are_decoded_before_the_first_is_shown(tmp_path: Path) -> None:
    """The page waits for their descriptions alone."""
    root = record(tmp_path / "recorded", [(drawn(0), UNSURE)])
    version = root / "flowers" / "1"
    document, image = next(version.glob("??/*.json")).read_bytes(), next(version.glob("??/*.png"))
    for number in range(10_000):
        stem = hashlib.sha256(str(number).encode()).hexdigest()
        folder = version / stem[:2]
        folder.mkdir(exist_ok=True)
        (folder / f"{stem}.json").write_bytes(document)
        os.link(image, folder / f"{stem}.png")
    session = _session(root)
    state = session.state()
    assert (state["images"], state["left"]) == (10_001, 10_001)
    assert len(session._order._waiting) > 9_800


def test_the_command_prints_a_summary(recorded: Path) -> None:
    """As JSON without a page; errors say what was expected."""
    session = _session(recorded, "recorded-labeled")
    session.decide(_digest(drawn(0)), LABEL, "daisy")
    del session
    done = run_cli("review", recorded, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    expected = {"model": "flowers", "images": 4, "left": 3, "labeled": 1, "agreed": 1, "labels": {"daisy": 1}}
    assert {key: summary[key] for key in expected} == expected
    assert summary["out"] == str(recorded.with_name("recorded-labeled"))
    record(recorded, [(drawn(5), UNSURE)], model="birds")
    for arguments, message in (
        ((recorded, "--json"), "several models; choose one with --model: birds, flowers"),
        ((recorded, "--json", "--model", "cats"), "no images of model cats"),
        ((recorded.with_name("nowhere"), "--json"), "is no folder"),
        ((recorded.with_name("recorded-labeled"), "--json"), "has no recorded images"),
        ((recorded, "--model", "birds", "--out", recorded / "x"), "must not lie in each other"),
        ((recorded, "--model", "birds", "--host", "::"), "reachable from other machines"),
    ):
        failed = run_cli("review", *arguments)
        assert failed.returncode in (1, 2)
        assert message in failed.stderr
