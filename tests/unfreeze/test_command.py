"""The command line: what it says, where it says it, and how it ends."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.images import draw_image, encode, write_images
from support.runs import write_run
from support.servers import running_server

import unfreeze


def _run(*arguments: object, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "unfreeze.command", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, cwd=cwd)


def _words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("command", ["tune", "export", "serve", "predict", "demo"])
def test_every_command_has_a_help_with_examples(command: str) -> None:
    """Help goes to standard output and ends with examples that begin with the command itself."""
    done = _run(command, "--help")
    assert done.returncode == 0
    assert f"unfreeze {command}" in done.stdout
    assert "Examples:" in done.stdout
    assert done.stderr == ""


def test_the_commands_and_the_version_are_listed() -> None:
    """`unfreeze --help` names all commands, `--version` the version."""
    done = _run("--help")
    assert all(name in done.stdout for name in ("tune", "export", "serve", "predict", "demo"))
    assert _run("--version").stdout.strip().startswith("0.")


@pytest.mark.parametrize(
    "arguments",
    [
        ["tune"],
        ["tune", "data"],
        ["tune", "data", "--out", "run", "--epochs", "many"],
        ["tune", "data", "--out", "run", "--epochs", "0"],
        ["tune", "data", "--out", "run", "--device", "tpu"],
        ["serve", "--repository", "models", "--port", "70000"],
        ["predict", "a.jpg", "--file", "m.onnx", "--top", "0"],
        ["predict", "a.jpg", "--file", "m.onnx", "--top", "5000000000"],
        ["predict", "a.jpg"],
        ["export", "run", "--repository", "models", "--name", "m", "--max-batch", "0"],
        ["export", "run", "--repository", "models", "--name", "m", "--tolerance", "inf"],
        ["fly"],
    ],
)
def test_what_is_asked_wrongly_ends_with_two_or_one_and_no_traceback(arguments: list[str], tmp_path: Path) -> None:
    """Wrong usage is told on standard error, without a traceback, and nothing is printed as a result."""
    done = _run(*arguments, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr + done.stdout
    assert done.stderr.strip()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tune", "nowhere", "--out", "run"], "nowhere is no folder"),
        (["export", "nowhere", "--repository", "models", "--name", "x"], "nowhere holds no finished run"),
        (["serve", "--repository", "nowhere"], "nowhere"),
        (["predict", "a.jpg", "--file", "nowhere.onnx"], "there is no file nowhere.onnx"),
        (["predict", "a.jpg", "--server", "127.0.0.1:1"], "a.jpg cannot be read"),
    ],
)
def test_what_cannot_be_done_ends_with_one_and_says_why(arguments: list[str], message: str, tmp_path: Path) -> None:
    """Each failure is one line that names what was wrong."""
    done = _run(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert message in _words(done.stderr)
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, exported by the command line."""
    made = tmp_path_factory.mktemp("commands")
    write_run(made)
    done = _run("export", made / "run", "--repository", made / "models", "--name", "colors", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["name"], report["version"]) == ("colors", 1)
    assert report["proof"]["batch_sizes"] == [1, 2, 7, 64]
    assert report["proof"]["largest_difference"] <= 1e-4
    return made


def test_a_model_says_what_it_is(folder: Path) -> None:
    """`info` shows the manifest and the layers, as tables or as JSON."""
    model = folder / "models" / "colors"
    shown = _run("info", model)
    assert shown.returncode == 0, shown.stderr
    assert all(text in shown.stdout for text in ("blue, green, red", "fp32", "squeezenet1_1", "Conv"))
    document = json.loads(_run("info", model, "--json").stdout)
    assert document["labels"] == ["blue", "green", "red"]
    assert document["bytes"] == (model / "1" / "model.onnx").stat().st_size
    count, size = document["layers"]["Conv"]
    assert count == 25
    assert 0.9 * document["bytes"] < size < document["bytes"]


def test_labels_are_shown_as_they_are(tmp_path: Path) -> None:
    """What looks like the console's markup is a label like others, and so is a folder's name."""
    run = write_run(tmp_path)
    document = json.loads((run / "run.json").read_text()) | {"labels": ["[/x]", "[red]", "green"]}
    (run / "run.json").write_text(json.dumps(document))
    folder = tmp_path / "[bold]"
    assert _run("export", run, "--repository", folder, "--name", "odd").returncode == 0
    for command in ("info", "bench"):
        shown = _run(command, folder / "odd", *(["--batch", "1"] if command == "bench" else []))
        assert shown.returncode == 0, shown.stderr
        assert command == "info" or "[bold]" in "".join(shown.stdout.split())
        assert command == "bench" or "[/x], [red], green" in shown.stdout


def test_a_model_is_timed(folder: Path) -> None:
    """`bench` gives percentiles and throughput for each batch size, and refuses what is no size."""
    done = _run("bench", folder / "models" / "colors", "--batch", "1,4", "--json")
    assert done.returncode == 0, done.stderr
    timings = json.loads(done.stdout)["timings"]
    assert [timing["batch"] for timing in timings] == [1, 4]
    for timing in timings:
        assert 0 < timing["p50_ms"] <= timing["p90_ms"] <= timing["p99_ms"]
        assert timing["runs"] >= 10
        assert timing["images_per_second"] > 0
    threads = _run("bench", folder / "models" / "colors", "--threads", "99999999999")
    assert (threads.returncode, "--threads goes from 0 to 1,024" in threads.stderr) == (2, True)
    wrong = _run("bench", folder / "models" / "colors", "--batch", "1,many")
    assert (wrong.returncode, "--batch takes whole numbers from 1 to 4,096" in wrong.stderr) == (2, True)


def test_predicting_names_files_and_folders(folder: Path, tmp_path: Path) -> None:
    """Files and folders in, a table for people or JSON for machines out, the same by file and by server."""
    (tmp_path / "one.png").write_bytes(encode(draw_image((200, 30, 30), 1), "PNG"))
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "two.jpg").write_bytes(encode(draw_image((30, 30, 200), 2)))
    model = folder / "models" / "colors" / "1" / "model.onnx"
    asked = ("one.png", "more")
    table = _run("predict", *asked, "--file", model, cwd=tmp_path)
    assert table.returncode == 0
    assert all(name in table.stdout for name in ("one.png", "two.jpg", "blue", "green", "red"))
    inside = json.loads(_run("predict", *asked, "--file", model, "--top", "2", "--json", cwd=tmp_path).stdout)
    assert [Path(item["image"]).name for item in inside] == ["one.png", "two.jpg"]
    assert all(len(item["predictions"]) == 2 for item in inside)
    with running_server(folder / "models") as server:
        by_server = _run("predict", *asked, "--server", server.target, "--top", "2", "--json", cwd=tmp_path)
        served = json.loads(by_server.stdout)
    for one, other in zip(inside, served, strict=True):
        assert [item["label"] for item in one["predictions"]] == [item["label"] for item in other["predictions"]]
        assert one["predictions"][0]["score"] == pytest.approx(other["predictions"][0]["score"], abs=1e-5)


def test_what_is_unsure_is_marked(tmp_path: Path) -> None:
    """A model with a threshold between two answers marks the lower, in the table and in JSON; a server is silent."""
    write_run(tmp_path)
    facts = tmp_path / "run" / "run.json"
    images = sorted((tmp_path / "images" / "val").rglob("*.jpg"))
    first = unfreeze.export_model(tmp_path / "run", tmp_path / "models", "colors")
    with unfreeze.load_model(first.path) as classifier:
        answers = classifier.predict(images, top=1)
        assert not any(classifier.is_unsure(answer) for answer in answers)
    order = np.argsort([answer[0].score for answer in answers])
    low, high = (answers[order[place]][0].score for place in (0, -1))
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"abstain_below": (low + high) / 2}))
    second = unfreeze.export_model(tmp_path / "run", tmp_path / "models", "colors")
    asked = ("predict", *(images[order[place]].relative_to(tmp_path) for place in (0, -1)))
    marked = json.loads(_run(*asked, "--file", second.path, "--json", cwd=tmp_path).stdout)
    assert [item["unsure"] for item in marked] == [True, False]
    rows = _run(*asked, "--file", second.path, cwd=tmp_path).stdout.splitlines()
    assert [f"{low:.4f} unsure" in row for row in rows if "unsure" in row] == [True]
    assert "unsure" not in _run(*asked, "--file", first.path, cwd=tmp_path).stdout
    with running_server(tmp_path / "models") as server:
        served = json.loads(_run(*asked, "--server", server.target, "--json", cwd=tmp_path).stdout)
    assert [item["unsure"] for item in served] == [None, None]


def test_brackets_and_hidden_files_are_shown_as_they_are(folder: Path, tmp_path: Path) -> None:
    """A name with [red] in it is no color, and a hidden file that is named is not left out."""
    for name in ("x[red].png", ".hidden.png"):
        (tmp_path / name).write_bytes(encode(draw_image((200, 30, 30), 1), "PNG"))
    model = folder / "models" / "colors" / "1" / "model.onnx"
    done = _run("predict", "x[red].png", ".hidden.png", "--file", model, "--top", "1", cwd=tmp_path)
    assert "x[red].png" in done.stdout
    assert ".hidden.png" in done.stdout


def test_a_bad_image_is_named(folder: Path, tmp_path: Path) -> None:
    """One file that is no image among good ones is named, and the exit code is 1."""
    (tmp_path / "good.png").write_bytes(encode(draw_image((200, 30, 30), 1), "PNG"))
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    model = folder / "models" / "colors" / "1" / "model.onnx"
    done = _run("predict", tmp_path / "good.png", tmp_path / "bad.jpg", "--file", model)
    assert done.returncode == 1
    assert "bad.jpg: " in _words(done.stderr)


@pytest.mark.slow
def test_an_interrupted_tuning_leaves_no_run(tmp_path: Path) -> None:
    """Ctrl-C while tuning ends with 130 and how to go on, and leaves nothing that passes for a run."""
    data = write_images(tmp_path / "data", 30)
    command = ["tune", data, "--backbone", "mobilenet_v3_small", "--weights", "builtin", "--out", tmp_path / "run"]
    command += ["--cut", "all", "--epochs", "500"]
    with subprocess.Popen(
        [sys.executable, "-m", "unfreeze.command", *map(str, command)], stderr=subprocess.PIPE, text=True
    ) as process:
        until = time.monotonic() + 60
        while not (tmp_path / "run").exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in told
    assert "Traceback" not in told
    assert "--resume goes on" in told
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".unfinished"]


def test_the_public_names_are_all_there() -> None:
    """`__all__` is what `dir` lists, and every name can be had."""
    assert dir(unfreeze) == sorted(unfreeze.__all__)
    assert set(unfreeze.__all__) >= {"tune", "export", "load", "Client", "TuneOptions", "UnfreezeError", "prepare"}
    for name in unfreeze.__all__:
        assert getattr(unfreeze, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'fly'"):
        _ = unfreeze.fly
