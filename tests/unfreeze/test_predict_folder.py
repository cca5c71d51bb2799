"""Folders given to `unfreeze predict` and to clients: no file is dropped without a word."""

import json
import os
from pathlib import Path

import pytest
from support.cli import run_cli
from support.echoes import Echo, echoing
from support.images import write_images

import unfreeze

pytestmark = pytest.mark.xdist_group("commands")


@pytest.fixture
def model(folder: Path) -> Path:
    """One small model file."""
    return folder / "models" / "colors" / "1" / "model.onnx"


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Six images, two of them behind a link; a dangling link, a pipe, a loop, and what macOS leaves behind."""
    folder = tmp_path / "images"
    write_images(folder, 1)
    write_images(tmp_path / "more", 1, first_seed=9)
    (folder / "linked").symlink_to(tmp_path / "more")
    (folder / "gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    (folder / "red" / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "._000.jpg").write_bytes(b"x")
    (folder / ".DS_Store").write_bytes(b"x")
    return folder


EXPECTED = (
    ("blue/000.jpg", None),
    ("gone.jpg", "a dangling link"),
    ("green/000.jpg", None),
    ("linked/blue/000.jpg", None),
    ("linked/green/000.jpg", None),
    ("linked/red/000.jpg", None),
    ("pipe.jpg", "a named pipe, not a file"),
    ("red/000.jpg", None),
)


def _check(folder: Path, rows: list[tuple[str, str | None]]) -> None:
    assert rows == [
        (str(folder / name), None if reason is None else f"{folder / name}: {reason}") for name, reason in EXPECTED
    ]


def test_every_entry_of_a_folder_is_classified_or_named(model: Path, mixed: Path) -> None:
    """By a model file: links are followed, what is no file is an error of its own, leftovers are counted."""
    done = run_cli("predict", mixed, "--file", model, "--json")
    assert done.returncode == 1
    _check(mixed, [(row["image"], row["error"]) for row in json.loads(done.stdout)])
    errors = " ".join(done.stderr.split())
    assert "ignored 3 files: 1 .DS_Store (macOS), 1 ._* (macOS), 1 link to a folder that is listed already" in errors
    assert "2 of 8 images could not be classified" in errors


def test_every_entry_of_a_folder_is_sent_to_a_server_or_named(mixed: Path) -> None:
    """The command and the client treat a folder alike; a pipe does not block them."""
    for path in (*mixed.rglob("*.jpg"), *mixed.parent.joinpath("more").rglob("*.jpg")):
        if path.is_file():
            path.write_bytes(b"image")
    with echoing(Echo()) as target:
        done = run_cli("predict", mixed, "--server", target, "--json")
        with unfreeze.Client(target) as client:
            answers = list(client.classify(mixed))
    _check(mixed, [(row["image"], row["error"]) for row in json.loads(done.stdout)])
    _check(mixed, [(answer.name, answer.error) for answer in answers])
    assert {answer.predictions[0].label for answer in answers if answer.error is None} == {"image"}


def test_a_folder_of_leftovers_alone_says_so(model: Path, tmp_path: Path) -> None:
    """Nothing to classify, and why."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "Thumbs.db").write_bytes(b"x")
    done = run_cli("predict", tmp_path / "images", "--file", model)
    errors = " ".join(done.stderr.split())
    assert done.returncode == 1
    assert "ignored 1 file: 1 Thumbs.db (Windows)" in errors
    assert "no images to classify: the given folders are empty" in errors
