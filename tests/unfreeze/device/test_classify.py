"""`classify`: one line of JSON for each image, by files, by a watched folder, with new versions on the way."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.cli import run_cli
from support.device_models import classifying, publish_again

import unfreeze
from unfreeze.device.classify import main
from unfreeze.device.versions import write_current

pytestmark = pytest.mark.xdist_group("commands")


def _lines(captured: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in captured.splitlines()]


def test_lines_are_what_the_model_answers_in_process(
    device: Path, images: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Labels and scores are those of `unfreeze.load_model`, at the first start and from the saved graph."""
    with unfreeze.load_model(device / "1" / "model.onnx") as model:
        expected = model.predict(images, top_k=3)
    for _ in range(2):
        assert main([*map(str, images), "--model", str(device), "--top-k", "3"]) == 0
        lines = _lines(capsys.readouterr().out)
        assert [line["image"] for line in lines] == [str(path) for path in images]
        for line, predictions in zip(lines, expected, strict=True):
            assert [one["label"] for one in line["top_k"]] == [one.label for one in predictions]
            np.testing.assert_allclose(
                [one["score"] for one in line["top_k"]], [one.score for one in predictions], 1e-5
            )
            assert line["label"] == predictions[0].label
            assert line["score"] == line["top_k"][0]["score"]
            assert (line["model"], line["version"], line["unsure"], line["error"]) == ("colors", 1, None, None)
            assert line["latency_ms"] > 0


def test_a_bad_image_is_a_line_and_the_others_are_classified(
    device: Path, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A text, a truncated image, a folder, a pipe and a missing file between two images; the exit code is 1."""
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "half.jpg").write_bytes(images[0].read_bytes()[:300])
    os.mkfifo(tmp_path / "pipe.jpg")
    bad = [tmp_path / name for name in ("text.jpg", "half.jpg", "pipe.jpg", "gone.jpg")] + [tmp_path]
    paths = [images[0], *bad, images[-1]]
    assert main([*map(str, paths), "--model", str(device)]) == 1
    first, *middle, last = _lines(capsys.readouterr().out)
    assert first["error"] is last["error"] is None
    for path, line in zip(bad, middle, strict=True):
        assert str(path) in line["error"]
        assert (line["image"], line["label"], line["score"], line["top_k"]) == (str(path), None, None, [])


def test_a_name_that_is_not_utf8_is_json_too(
    device: Path, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its bytes are escaped in the text: parsers refuse what Python makes of them."""
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg"))
    shutil.copy(images[0], odd)
    assert main([str(odd), "--model", str(device)]) == 0
    printed = capsys.readouterr().out
    assert "\\udc" not in printed
    (line,) = _lines(printed)
    assert (line["image"], line["error"]) == (f"{tmp_path}/\\xff.jpg", None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either IMAGES, --watch FOLDER or --camera N"),
        (["a.jpg", "--watch", "."], "give either IMAGES, --watch FOLDER or --camera N"),
        (["a.jpg", "--existing"], "--existing says which files of --watch FOLDER are taken"),
        (["a.jpg", "--top-k", "0"], "--top-k must be between 1 and"),
        (["a.jpg", "--threads", "-1"], "--threads must be between 0 and"),
    ],
)
def test_wrong_usage_is_one_line(
    arguments: list[str], message: str, device: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 2, and the message says what is wrong."""
    assert main([*arguments, "--model", str(device)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_the_command_of_the_full_package_is_the_same_program(device: Path, images: list[Path], tmp_path: Path) -> None:
    """`unfreeze classify` writes the same line, and fails in the same way."""
    done = run_cli("classify", images[0], "--model", device, "--top-k", "1", "--no-cache")
    assert done.returncode == 0, done.stderr
    (line,) = _lines(done.stdout)
    assert (line["image"], len(line["top_k"])) == (str(images[0]), 1)
    assert not (device / ".optimized").exists()
    assert run_cli("classify", tmp_path / "gone.jpg", "--model", device).returncode == 1
    assert run_cli("classify", images[0], "--model", tmp_path).returncode == 1


def test_watch_takes_each_file_once_when_it_is_complete(device: Path, images: list[Path], tmp_path: Path) -> None:
    """A file that is written in two parts, one that is moved there, a hidden one, and one that was there before."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    shutil.copy(images[0], inbox / "before.jpg")
    data = images[0].read_bytes()
    with classifying("--watch", inbox, "--model", device) as running:
        started = inbox / "started.jpg"
        while not running.has_line(0.2):  # until it watches
            shutil.copy(images[0], started)
        while running.has_line(0.5):
            assert running.line()["image"] == str(started)
        with (inbox / "slow.jpg").open("wb") as file:
            file.write(data[:100])
            file.flush()
            assert not running.has_line(2.5), "taken while it was written"
            file.write(data[100:])
        assert running.line()["image"] == str(inbox / "slow.jpg")
        shutil.copy(images[1], inbox / ".hidden.jpg")
        (inbox / ".hidden.jpg").rename(inbox / "moved.jpg")
        line = running.line()
        assert (line["image"], line["error"]) == (str(inbox / "moved.jpg"), None)
        os.link(images[2], inbox / "linked.jpg")
        assert running.line()["image"] == str(inbox / "linked.jpg")
        (inbox / "bad.jpg").write_text("no image")
        assert "not an image" in running.line()["error"]
        shutil.copy(images[3], inbox / "moved.jpg")
        assert running.line()["image"] == str(inbox / "moved.jpg"), "written again, and so new again"
        assert not running.has_line(2.5), "one was taken twice"
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(30) == 0
        assert running.process.stderr.read() == ""


def test_existing_files_are_taken_if_requested(device: Path, images: list[Path], tmp_path: Path) -> None:
    """With `--existing`; Ctrl-C ends it as cleanly as SIGTERM."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    shutil.copy(images[0], inbox / "before.jpg")
    with classifying("--watch", inbox, "--existing", "--model", device) as running:
        assert running.line()["image"] == str(inbox / "before.jpg")
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(30) == 0


def test_follow_takes_new_versions_and_keeps_the_old_one_if_they_fail(
    device: Path, exported: Path, images: list[Path], tmp_path: Path
) -> None:
    """Without a restart: version 2 is taken, version 3 fails its golden images, 4 is no model, 5 is taken."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()

    def ask(name: str) -> int:
        shutil.copy(images[0], inbox / name)
        line = running.line()
        assert (line["image"], line["error"]) == (str(inbox / name), None)
        return line["version"]

    with classifying("--watch", inbox, "--existing", "--model", device, "--follow") as running:
        assert ask("1.jpg") == 1
        assert publish_again(exported, device) == 2
        assert "colors version 2 replaces colors version 1" in running.remark()
        assert ask("2.jpg") == 2
        assert publish_again(exported, device, broken=True) == 3
        assert "colors version 3 is refused, colors version 2 stays: " in running.remark()
        assert ask("3.jpg") == 2
        (device / ".4").mkdir()
        (device / ".4" / "model.onnx").write_text("no model")
        (device / ".4").rename(device / "4")
        assert "colors version 4 is refused" in running.remark()
        assert ask("4.jpg") == 2
        assert publish_again(exported, device) == 5
        assert "colors version 5 replaces colors version 2" in running.remark()
        assert ask("5.jpg") == 5
        write_current(device, 1, 5)
        assert "colors version 1 replaces colors version 5" in running.remark()
        assert ask("6.jpg") == 1
        shutil.rmtree(device)
        assert ask("7.jpg") == 1, "it answers without the folder"


def test_a_damaged_version_is_passed_over_at_the_start(
    device: Path, exported: Path, images: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The version in use is damaged on disk: the one before it answers, and standard error says why."""
    publish_again(exported, device)
    write_current(device, 2, 1)
    with (device / "2" / "model.onnx").open("r+b") as file:
        file.write(b"damaged")
    assert main([str(images[0]), "--model", str(device)]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["version"] == 1
    assert "colors version 2 cannot be used: " in captured.err


def test_a_reader_that_goes_away_ends_it_without_a_traceback(device: Path, images: list[Path]) -> None:
    """As with `classify ... | head -1`."""
    command = [sys.executable, "-m", "unfreeze.device.classify", *map(str, images * 20), "--model", str(device)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 1
        assert process.stderr.read() == ""


def test_a_camera_needs_opencv_and_says_so(
    device: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line with the command that installs it."""
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert main(["--camera", "0", "--model", str(device)]) == 1
    assert "--camera needs OpenCV" in capsys.readouterr().err


def test_frames_of_a_video_are_classified(device: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Red frames are red; at the end, one line says that the camera gives no more frames."""
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV (unfreeze[camera])")
    video = str(tmp_path / "video.avi")
    writer = cv2.VideoWriter(video, cv2.VideoWriter.fourcc(*"MJPG"), 5, (64, 48))
    for _ in range(3):
        writer.write(np.full((48, 64, 3), (40, 40, 220), np.uint8))
    writer.release()
    assert main(["--camera", video, "--every", "0", "--model", str(device)]) == 1
    captured = capsys.readouterr()
    assert [line["image"] for line in _lines(captured.out)] == [f"camera {video} frame {n}" for n in (1, 2, 3)]
    assert all(line["error"] is None for line in _lines(captured.out))
    assert "gives no more frames" in captured.err
