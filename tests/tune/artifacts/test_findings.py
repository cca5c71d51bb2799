"""`findings.json`: every problem of the data with all of its files, also of a run that --strict refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.images import write_images

from unfreeze.contract.errors import DataError
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.run import fine_tune

OPTIONS = TuneOptions(backbone="squeezenet1_1", weights="none", recipe="probe", device="cpu", flip="no")


class Messages:
    """A reporter that keeps its messages."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str) -> None:
        """Keep a message."""
        self.lines.append(text)

    def track(self, what: str, total: int) -> Callable[[int], None]:  # noqa: ARG002 - the protocol's signature
        """Ignore progress."""
        return lambda _: None


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Seven training images that are in val too, a class without val images, a hidden file and a text."""
    data = tmp_path / "data"
    write_images(data / "train", 9)
    write_images(data / "val", 2, first_seed=500)
    shutil.rmtree(data / "val" / "red")
    for number in range(7):
        shutil.copy(data / "train" / "blue" / f"00{number}.jpg", data / "val" / "blue" / f"copy{number}.jpg")
    (data / "train" / ".hidden.jpg").write_bytes(b"x")
    (data / "train" / "red" / "notes.txt").write_text("x")
    return data


def test_a_run_lists_all_files_of_every_finding(data: Path, tmp_path: Path) -> None:
    """All in findings.json; the first five of each kind among the messages, with the advice; metrics name the gap."""
    messages = Messages()
    metrics = fine_tune(data, tmp_path / "run", OPTIONS, messages)
    document = json.loads((tmp_path / "run" / "findings.json").read_text())
    found = {finding["kind"]: finding for finding in document["findings"]}
    assert set(found) == {"skipped", "val-classes", "duplicates"}
    assert found["duplicates"]["paths"] == [
        f"val/blue/copy{number}.jpg = train/blue/00{number}.jpg" for number in range(7)
    ]
    assert document["data"] == str(data)
    assert document["skipped"] == [{"path": "train/red/notes.txt", "reason": "not an image (.txt)"}]
    assert document["ignored"] == [{"path": "train/.hidden.jpg", "reason": "hidden", "files": 1}]
    (line,) = [line for line in messages.lines if "byte for byte" in line]
    assert line.startswith("7 images are in an earlier split too")
    assert "keep one of each pair: val/blue/copy0.jpg = train/blue/000.jpg, " in line
    assert line.endswith("val/blue/copy4.jpg = train/blue/004.jpg, and 2 more")
    assert messages.lines[:2] == [
        "3 classes; images: 27 train, 11 val; 1 file skipped",
        "ignored 1 file: 1 hidden",
    ]
    assert (metrics["val_classes"], metrics["ignored"]) == (2, {"hidden": 1})
    assert metrics["per_class"]["red"] == {
        "precision": None,
        "recall": None,
        "images": 0,
        "note": "no validation images",
    }


def test_a_refused_run_leaves_its_findings(data: Path, tmp_path: Path) -> None:
    """With --strict nothing is trained; the error says where all files are listed."""
    listed = r"3 problems; all files are listed in .*run/findings\.json:\n  1 file was found and is not used"
    with pytest.raises(DataError, match=listed):
        fine_tune(data, tmp_path / "run", TuneOptions(weights="builtin", strict=True))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["findings.json"]
    document = json.loads((tmp_path / "run" / "findings.json").read_text())
    assert len(document["findings"]) == 3
    assert len(document["findings"][2]["paths"]) == 7
