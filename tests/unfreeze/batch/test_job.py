"""Whole jobs: every kind of source, resuming, and what is refused."""

import io
import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from support.batch_jobs import start_job
from support.cli import run_cli
from support.images import write_images
from support.sources import write_table, write_tar

import unfreeze
from unfreeze.batch.result import count_rows

pytestmark = pytest.mark.xdist_group("commands")

_COLUMNS = {
    "path",
    "key",
    "label",
    "score",
    "labels",
    "scores",
    "unsure",
    "out_of_distribution",
    "ood_score",
    "model",
    "model_version",
    "model_sha256",
    "error",
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """45 images, one of them truncated."""
    folder = write_images(tmp_path_factory.mktemp("job") / "images", 15)
    whole = (folder / "blue" / "003.jpg").read_bytes()
    (folder / "blue" / "003.jpg").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """A Parquet file of 400 images."""
    files = [path.read_bytes() for path in sorted(images.rglob("*.jpg"))]
    path = tmp_path_factory.mktemp("many") / "many.parquet"
    return write_table(path, image=[files[number % len(files)] for number in range(400)])


def _rows(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(out).to_pylist()
    return rows


def _words(text: str) -> str:
    return " ".join(text.split())


def _folder(images: Path, _: Path) -> list[object]:
    return [images]


def _csv(images: Path, folder: Path) -> list[object]:
    paths = "".join(f"{path}\n" for path in sorted(images.rglob("*.jpg")))
    (folder / "list.csv").write_text(f"path\n{paths}")
    return [folder / "list.csv"]


def _path_table(images: Path, folder: Path) -> list[object]:
    return [write_table(folder / "list.parquet", path=[str(path) for path in sorted(images.rglob("*.jpg"))])]


def _bytes_table(images: Path, folder: Path) -> list[object]:
    return [write_table(folder / "a.parquet", bytes=[path.read_bytes() for path in sorted(images.rglob("*.jpg"))])]


def _hugging_face(images: Path, folder: Path) -> list[object]:
    rows = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted(images.rglob("*.jpg"))]
    return [write_table(folder / "a.parquet", image=rows, label=[0] * len(rows))]


def _shards(images: Path, folder: Path) -> list[object]:
    files = sorted(images.rglob("*.jpg"))
    for shard in range(3):
        own = files[shard * 15 : shard * 15 + 15]
        samples = {
            f"{number:03}.{kind}": path.read_bytes() for number, path in enumerate(own) for kind in ("jpg", "txt")
        }
        write_tar(folder / f"{shard}.tar", samples)
    return [folder / "{0..2}.tar"]


def _remote_shards(images: Path, folder: Path) -> list[object]:
    _shards(images, folder)
    for shard in range(3):
        fsspec.filesystem("memory").pipe(f"/job/{shard}.tar", (folder / f"{shard}.tar").read_bytes())
    return ["memory://job/*.tar"]


def _remote_images(images: Path, _: Path) -> list[object]:
    for path in images.rglob("*.jpg"):
        fsspec.filesystem("memory").pipe(f"/images/{path.relative_to(images)}", path.read_bytes())
    return ["memory://images"]


_KINDS = [_folder, _csv, _path_table, _bytes_table, _hugging_face, _shards, _remote_shards, _remote_images]


@pytest.mark.parametrize("kind", _KINDS)
def test_every_kind_of_source_has_the_same_answers(
    folder: Path, images: Path, tmp_path: Path, kind: Callable[[Path, Path], list[object]]
) -> None:
    """One row for each image, in order, with the answers of the model in this process; a bad image has its error."""
    model = folder / "models" / "colors"
    sources = kind(images, tmp_path)
    done = run_cli("predict", *sources, "--file", model, "--out", tmp_path / "out.parquet", "--top-k", "2")
    assert done.returncode == 1, done.stderr
    assert "1 of 45 images could not be classified; see the column `error` of" in _words(done.stderr)
    rows = _rows(tmp_path / "out.parquet")
    files = sorted(images.rglob("*.jpg"))
    assert len({row["path"] for row in rows}) == 45
    assert set(rows[0]) == _COLUMNS
    with unfreeze.load_model(model / "1" / "model.onnx") as classifier:
        for row, file in zip(rows, files, strict=True):
            if file.parts[-2:] == ("blue", "003.jpg"):
                assert row["label"] is row["score"] is row["labels"] is row["scores"] is None
                assert "truncated" in row["error"]
                continue
            (expected,) = classifier.predict([file], top_k=2)
            assert (row["label"], row["labels"]) == (expected[0].label, [one.label for one in expected])
            assert row["scores"] == pytest.approx([one.score for one in expected], abs=1e-6)
            assert (row["score"], row["unsure"], row["error"]) == (row["scores"][0], None, None)
            assert (row["model"], row["model_version"]) == ("colors", 1)
            assert row["model_sha256"] == classifier.manifest.sha256
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_rows_name_the_image(folder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its path as it was given, by the member of a tar file and its key, or by the row of a table and its key."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").symlink_to(images / "red")
    data = (images / "red" / "000.jpg").read_bytes()
    write_tar(tmp_path / "a.tar", {"x/7.left.jpg": data})
    write_table(tmp_path / "b.parquet", image=[data], id=[12])
    done = run_cli(
        "predict", "images/001.jpg", "a.tar", "b.parquet", "--file", folder / "models" / "colors", "--out", "o.parquet"
    )
    assert done.returncode == 0, done.stderr
    found = [(row["path"], row["key"]) for row in _rows(tmp_path / "o.parquet")]
    assert found == [("images/001.jpg", None), ("a.tar#x/7.left.jpg", "x/7"), ("b.parquet#0", "12")]


@pytest.mark.parametrize(("out", "operations"), [("out.parquet", (2, 6, 9, 21, 5)), ("out", (9, 28, 8))])
def test_a_killed_job_continues_to_the_same_bytes(
    folder: Path, many: Path, tmp_path: Path, out: str, operations: tuple[int, ...]
) -> None:
    """Killed at any operation on the disk and run again, it writes the very same result, and leaves nothing else."""
    command = ["predict", many, "--file", folder / "models" / "colors"]
    (tmp_path / "whole").mkdir()
    run_cli(*command, "--out", tmp_path / "whole" / out)
    expected = {path.name: path.read_bytes() for path in sorted((tmp_path / "whole").rglob("*.parquet"))}
    assert len(expected) == 1
    (tmp_path / "killed").mkdir()
    for operation in operations:
        process = start_job(*command, "--out", tmp_path / "killed" / out, killed_at=(operation, tmp_path / "killed"))
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert run_cli(*command, "--out", tmp_path / "killed" / out).returncode in (0, 1)
    assert {path.name: path.read_bytes() for path in (tmp_path / "killed").rglob("*.parquet")} == expected
    assert [path.name for path in (tmp_path / "killed").iterdir()] == [out]


def _blocks(folder: Path) -> int:
    return len(list(folder.glob(".out.parquet.unfinished/blocks/*.parquet")))


def test_finished_blocks_are_not_computed_again(folder: Path, many: Path, tmp_path: Path) -> None:
    """After Ctrl-C in the middle, the same command computes the rest, and says what is to do meanwhile."""
    command = ["predict", many, "--file", folder / "models" / "colors", "--out", tmp_path / "out.parquet"]
    process = start_job(*command, stderr=tmp_path / "stderr")
    until = time.monotonic() + 60
    while _blocks(tmp_path) < 2 and time.monotonic() < until and process.is_alive():
        time.sleep(0.002)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 130, (tmp_path / "stderr").read_text()
    assert "stopped; the same command continues with what is left of" in _words((tmp_path / "stderr").read_text())
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.glob(".*/blocks/*")}
    assert 2 <= len(finished) < 10
    assert not (tmp_path / "out.parquet").exists()
    process = start_job(*command, killed_at=(2 * (10 - len(finished)), tmp_path / ".out.parquet.unfinished" / "blocks"))
    process.join()
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    run_cli(*command)
    assert count_rows(tmp_path / "out.parquet") == 400


def test_a_job_that_is_complete_is_not_computed_again(folder: Path, images: Path, tmp_path: Path) -> None:
    """Its result stays as it is, with exit code 0; --overwrite computes it."""
    command = ["predict", images / "red", "--file", folder / "models" / "colors", "--out", tmp_path / "out.parquet"]
    assert run_cli(*command).returncode == 0
    before = (tmp_path / "out.parquet").stat().st_mtime_ns
    again = run_cli(*command)
    assert (again.returncode, (tmp_path / "out.parquet").stat().st_mtime_ns) == (0, before)
    assert "out.parquet is complete: these images, model and options were used" in _words(again.stderr)
    assert "15 rows" in again.stdout
    assert run_cli(*command, "--overwrite").returncode == 0
    assert (tmp_path / "out.parquet").stat().st_mtime_ns > before


def test_the_result_is_never_one_of_the_images(folder: Path, images: Path, tmp_path: Path) -> None:
    """A pattern that matches the result leaves it out, and a table of images is not replaced by its own result."""
    table = write_table(tmp_path / "images.parquet", image=[(images / "red" / "000.jpg").read_bytes()] * 3)
    before = table.read_bytes()
    command = ["predict", tmp_path / "*.parquet", "--file", folder / "models" / "colors", "--out"]
    assert run_cli(*command, tmp_path / "out.parquet").returncode == 0
    assert "out.parquet is complete" in run_cli(*command, tmp_path / "out.parquet").stderr
    refused = run_cli("predict", table, *command[2:], table, "--overwrite")
    assert (refused.returncode, table.read_bytes()) == (1, before)
    assert "no images in" in refused.stderr


@pytest.mark.parametrize(
    ("change", "difference"),
    [(["--top-k", "1"], "--top-k"), (["more"], "the images"), (["--top-k", "1", "more"], "the images and --top-k")],
)
def test_another_job_does_not_mix_with_what_is_there(
    folder: Path, images: Path, tmp_path: Path, change: list[str], difference: str
) -> None:
    """Neither with a result nor with an unfinished job; the error says what differs and what to do."""
    more = write_images(tmp_path / "more", 1)
    other = [more if one == "more" else one for one in change]
    command = ["predict", images / "red", "--file", folder / "models" / "colors", "--out", tmp_path / "out.parquet"]
    start_job(*command, killed_at=(8, tmp_path)).join()
    unfinished = tmp_path / ".out.parquet.unfinished"
    assert unfinished.is_dir()
    refused = run_cli(*command, *other)
    assert refused.returncode == 1
    assert f"{unfinished} has blocks of another job that is not finished: {difference} differ; finish it" in _words(
        refused.stderr
    )
    assert run_cli(*command).returncode == 0
    before = (tmp_path / "out.parquet").read_bytes()
    refused = run_cli(*command, *other)
    expected = f"out.parquet is the result of another job: {difference} differ; choose another --out, or replace it"
    assert expected in _words(refused.stderr)
    assert (tmp_path / "out.parquet").read_bytes() == before
    assert not unfinished.exists()
    assert run_cli(*command, *other, "--overwrite").returncode == 0
    assert (tmp_path / "out.parquet").read_bytes() != before


def test_a_full_disk_keeps_what_is_finished(folder: Path, many: Path, tmp_path: Path) -> None:
    """The error says so; with space again, the same command continues."""
    command = ["predict", many, "--file", folder / "models" / "colors", "--out", tmp_path / "out.parquet"]
    run_cli(*command[:-1], tmp_path / "whole.parquet")
    limit = (tmp_path / "whole.parquet").stat().st_size - 100
    process = start_job(*command, stderr=tmp_path / "stderr", file_limit_bytes=limit)
    process.join()
    message = _words((tmp_path / "stderr").read_text())
    assert process.exitcode == 1, message
    assert re.search(r"error: cannot write .*: File too large; what is finished is kept: the same command", message)
    assert _blocks(tmp_path) == 10
    assert run_cli(*command).returncode == 1
    assert count_rows(tmp_path / "out.parquet") == 400


WRONG: list[tuple[list[str], str, int]] = [
    (
        ["images", "--out", "nowhere/out.parquet"],
        "error: cannot write to .*nowhere: No such file or directory; choose",
        1,
    ),
    (["images", "--out", "images"], "error: images exists and is no result of this command; choose another --out", 1),
    (
        ["images/red", "--out", "images", "--overwrite"],
        "error: images is no result of this command, and --overwrite deletes nothing else; choose another --out",
        1,
    ),
    (["images/red", "--out", "images/blue/000.jpg", "--overwrite"], "000.jpg is no result of this command, and", 1),
    (["images", "--out", "images/red/000.jpg"], "images/red/000.jpg exists and is no result of this command", 1),
    (
        ["images", "--out", "s3://bucket/out.parquet"],
        "--out must be a path on this machine, got s3:/bucket/out.parq",
        2,
    ),
    (["images", "--out", "out.parquet", "--json"], "--out needs --file model.onnx, and neither --server, --csv nor", 2),
    (["images", "--ray", "auto"], "--ray is for --out predictions.parquet; give both of them", 2),
    (["images", "--overwrite"], "--overwrite is for --out predictions.parquet", 2),
    (
        ["images", "--out", "out.parquet", "--device", "tpu"],
        "--device must be one of cpu, openvino, openvino-bf16, auto, cuda, tensorrt, got 'tpu'",
        2,
    ),
    (["images", "--out", "out.parquet", "--device", "tensorrt"], "there is no file .*model.plan", 1),
    (["images", "--out", "out.parquet", "--format", "zip"], "--format must be one of auto, images, csv, parquet", 2),
    (["nowhere", "--out", "out.parquet"], "error: nowhere: no such file; give image files, folders", 1),
    (["empty", "--out", "out.parquet"], "error: no images in empty", 1),
]


@pytest.mark.parametrize(("arguments", "message", "code"), WRONG)
def test_what_is_wrong_is_said_before_any_work(
    folder: Path, images: Path, tmp_path: Path, arguments: list[str], message: str, code: int
) -> None:
    """In one line; nothing is left behind."""
    (tmp_path / "images").symlink_to(images)
    (tmp_path / "empty").mkdir()
    done = run_cli("predict", *arguments, "--file", folder / "models" / "colors", cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert re.search(message, _words(done.stderr)), done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "images"]


def test_a_model_that_does_not_exist_is_named(images: Path, tmp_path: Path) -> None:
    """Before the images are listed."""
    done = run_cli("predict", images, "--file", tmp_path / "models", "--out", tmp_path / "out.parquet")
    assert "models is neither a model file nor a folder with one" in _words(done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_do_not_work_on_one_result(folder: Path, many: Path, tmp_path: Path) -> None:
    """The second one says so at once."""
    import fcntl

    command = ["predict", many, "--file", folder / "models" / "colors", "--out", tmp_path / "out.parquet"]
    working = tmp_path / ".out.parquet.unfinished"
    working.mkdir()
    descriptor = os.open(working, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    done = run_cli(*command)
    os.close(descriptor)
    assert "another process is working on" in _words(done.stderr)
    assert working.is_dir()


def test_the_result_may_lie_in_the_folder_of_the_images(folder: Path, tmp_path: Path) -> None:
    """It is no image of the next run, nor are the blocks of an unfinished one."""
    inside = write_images(tmp_path / "images", 2)
    command = ["predict", inside, "--file", folder / "models" / "colors", "--out", inside / "out.parquet"]
    assert run_cli(*command).returncode == 0
    again = run_cli(*command)
    assert "is complete" in again.stderr
    assert count_rows(inside / "out.parquet") == 6


def test_a_folder_of_results_has_files_of_bounded_size(
    folder: Path, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together they are the rows of the one file; the metadata say what they were computed from."""
    from unfreeze.batch import result

    command = ["predict", many, "--file", folder / "models" / "colors"]
    run_cli(*command, "--out", tmp_path / "one.parquet")
    monkeypatch.setattr(result, "_GROUP_ROWS", 32)
    monkeypatch.setattr(result, "_PART_ROWS", 96)
    run_cli(*command, "--out", tmp_path / "several")
    parts = sorted((tmp_path / "several").iterdir())
    assert [path.name for path in parts] == [f"part-{number:05}.parquet" for number in range(4)]
    assert [pq.read_metadata(path).num_rows for path in parts] == [120, 120, 120, 40]
    assert pq.read_table(tmp_path / "several").equals(pq.read_table(tmp_path / "one.parquet"))
    assert "is complete" in run_cli(*command, "--out", tmp_path / "several").stderr
    described = json.loads(pq.read_schema(parts[3]).metadata[b"unfreeze"])
    assert (described["top_k"], described["device"]) == (5, "cpu")
    assert run_cli(*command, "--out", tmp_path / "several", "--overwrite", "--top-k", "1").returncode == 1
    assert len(_rows(tmp_path / "several")[0]["labels"]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.parquet", "several"]


def test_progress_has_a_rate_and_the_time_left(folder: Path, many: Path, tmp_path: Path) -> None:
    """Also where the number of images in tar files is not known."""
    from unfreeze.batch.blocks import Block
    from unfreeze.batch.listing import Listing
    from unfreeze.batch.progress import BlockProgress
    from unfreeze.batch.sources.entry import Entry

    class Shown:
        """Records what is shown."""

        def __init__(self) -> None:
            self.steps: list[tuple[int, int]] = []

        def info(self, text: str) -> None:
            """Ignore a message."""

        def track(self, what: str, total: int) -> Callable[[int], None]:
            """Ignore a task."""
            raise AssertionError(what, total)

        def count(self, what: str) -> Callable[[int, int], None]:
            """Record the steps."""
            assert what == "images"
            return lambda done, total: self.steps.append((done, total))

    shown = Shown()
    listing = Listing(path=tmp_path, digest="", images=10, unknown=3, repeated=np.empty(0, np.int64), ignored="")
    progress = BlockProgress(listing, shown)
    known = Block(number=0, entries=(Entry(kind="image", path="a", count=10),))
    shards = [Block(number=number, entries=(Entry(kind="tar", path="b", count=0),)) for number in (1, 2, 3)]
    progress.skip(shards[0], 100)
    for block in (known, *shards[1:]):
        progress.begin(block)
    progress.add(0, 10)
    progress.add(2, 300)
    progress.add(3, 200)
    assert shown.steps == [(100, 310), (110, 310), (410, 610), (610, 610)]
    assert progress.computed == 510
    done = run_cli("predict", many, "--file", folder / "models" / "colors", "--out", tmp_path / "out.parquet")
    assert re.search(r"images .* 400/400 .*/s", done.stderr), done.stderr


def test_nothing_of_ray_or_torch_is_loaded(folder: Path, images: Path, tmp_path: Path) -> None:
    """A job without --ray needs neither."""
    import subprocess
    import sys

    script = (
        "import sys\nfrom unfreeze.command import main\n"
        f"try: main(['predict', {str(images / 'red')!r}, '--file', {str(folder / 'models' / 'colors')!r}, "
        f"'--out', {str(tmp_path / 'out.parquet')!r}])\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'ray', 'torch', 'sklearn', 'scipy'}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_missing_ray_says_what_to_install(
    folder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The extra is named."""
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    command = ["predict", images, "--file", folder / "models" / "colors", "--out", tmp_path / "out.parquet"]
    done = run_cli(*command, "--ray", "auto")
    assert (done.returncode, "--ray needs Ray: pip install 'unfreeze[ray]'" in _words(done.stderr)) == (1, True)
    assert io.StringIO(done.stdout).read() == ""
