"""The command line: its output streams, exit codes and messages."""

import csv
import json
import re
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import onnx
import pytest
from support.cli import run_cli
from support.images import draw_image, encode
from support.servers import RunningServer, server_thread
from support.thresholds import publish_with_threshold

import unfreeze
from unfreeze.contract.model.repository import ModelRepository
from unfreeze.contract.model.seal import UNSEALED
from unfreeze.export.graph import with_manifest

COMMANDS = (
    "plan",
    "compare",
    "features",
    "tune",
    "report",
    "export",
    "info",
    "verify",
    "bench",
    "serve",
    "traffic",
    "predict",
    "drift",
    "review",
    "classify",
    "bundle",
    "pull",
    "demo",
    "cache",
)

pytestmark = pytest.mark.xdist_group("commands")


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `bench` measure each batch size for a moment."""
    monkeypatch.setattr("unfreeze.serve.runtimes.benchmark._MIN_SECONDS", 0.1)


def _words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command: str) -> None:
    """Help goes to standard output and ends with examples that begin with the command itself."""
    done = run_cli(command, "--help")
    assert done.returncode == 0
    assert f"unfreeze {command}" in done.stdout
    assert "Examples:" in done.stdout
    assert done.stderr == ""


def test_help_lists_commands_and_exit_codes() -> None:
    """`unfreeze --help` lists all commands, in the order of use, and the exit codes; `--version` prints the version."""
    done = run_cli("--help")
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines if line[:1] == "│" and line[2:3].islower()] == [*COMMANDS]
    assert "Exit codes: 0 success, 1 failure, 2 wrong usage, 130 interrupted." in _words(done.stdout)
    assert run_cli("--version").stdout.strip() == version("unfreeze")


def test_process_exits_with_the_code_of_the_error(tmp_path: Path) -> None:
    """`python -m unfreeze.command` exits with 2 for a wrong option, with one line on standard error."""
    command = [sys.executable, "-m", "unfreeze.command", "serve", "--repository", "models", "--port", "70000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith("error: --port ")


@pytest.mark.parametrize(
    ("package", "arguments", "message"),
    [
        (
            "torch",
            ["tune", "images", "--out", "run"],
            r"this command needs an extra: pip install 'unfreeze\[tune,cpu\]' \(the package torch is not installed\)",
        ),
        (
            "onnxruntime",
            ["predict", "a.jpg", "--file", "m.onnx"],
            r"runtime 'cpu' is not available: .*onnxruntime.*; pip install 'unfreeze\[cpu\]'",
        ),
    ],
)
def test_missing_package_names_the_extra_that_installs_it(
    package: str, arguments: list[str], message: str, tmp_path: Path
) -> None:
    """Without an optional package, a command that needs it exits with 1 and the command to install it."""
    (tmp_path / "m.onnx").write_bytes(b"")
    code = f"import sys; sys.modules[{package!r}] = None; from unfreeze.command import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert re.search(message, _words(done.stderr))
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["tune"],
        ["tune", "data"],
        ["tune", "data", "--out", "run", "--epochs", "many"],
        ["tune", "data", "--out", "run", "--epochs", "0"],
        ["tune", "data", "--out", "run", "--device", "tpu"],
        ["tune", "data", "--out", "run", "--budget-ms", "20"],
        ["tune", "data", "--out", "run", "--backbone", "auto", "--weights", "builtin"],
        ["compare", "data", "--backbones", "resnet18,resnet18"],
        ["compare", "data", "--backbones", "resnet18="],
        ["compare", "data", "--budget-ms", "0"],
        ["serve", "--repository", "models", "--port", "70000"],
        ["predict", "a.jpg", "--file", "m.onnx", "--top-k", "0"],
        ["predict", "a.jpg", "--file", "m.onnx", "--top-k", "5000000000"],
        ["predict", "a.jpg"],
        ["export", "run", "--repository", "models", "--name", "m", "--max-batch", "0"],
        ["export", "run", "--repository", "models", "--name", "m", "--tolerance", "inf"],
        ["fly"],
    ],
)
def test_wrong_usage_exits_with_an_error_and_no_traceback(arguments: list[str], tmp_path: Path) -> None:
    """Wrong usage is reported on standard error, without a traceback and without writing any file."""
    done = run_cli(*arguments, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr + done.stdout
    assert done.stderr.strip()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tune", "nowhere", "--out", "run"], "nowhere cannot be read as a dataset"),
        (["export", "nowhere", "--repository", "models", "--name", "x"], "nowhere contains no finished run"),
        (["serve", "--repository", "nowhere"], "nowhere"),
        (["predict", "a.jpg", "--file", "nowhere.onnx"], "nowhere.onnx is neither a model file nor a folder with one"),
        (["predict", "a.jpg", "--server", "127.0.0.1:1"], "cannot read a.jpg"),
    ],
)
def test_failure_exits_with_one_and_names_the_cause(arguments: list[str], message: str, tmp_path: Path) -> None:
    """Each failure is one line that names its cause."""
    done = run_cli(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert message in _words(done.stderr)
    assert "Traceback" not in done.stderr


def test_info_shows_manifest_and_layers(folder: Path) -> None:
    """`info` shows the manifest and the layers, as tables or as JSON."""
    model = folder / "models" / "colors"
    shown = run_cli("info", model)
    assert shown.returncode == 0, shown.stderr
    assert all(text in shown.stdout for text in ("blue, green, red", "fp32", "squeezenet1_1", "Conv"))
    document = json.loads(run_cli("info", model, "--json").stdout)
    assert document["labels"] == ["blue", "green", "red"]
    assert document["bytes"] == (model / "1" / "model.onnx").stat().st_size
    count, size = document["layers"]["Conv"]
    assert count == 25
    assert 0.9 * document["bytes"] < size < document["bytes"]


@pytest.mark.usefixtures("brief")
def test_labels_with_markup_are_printed_verbatim(folder: Path, tmp_path: Path) -> None:
    """Labels and folder names that look like the markup of the console library are printed verbatim."""
    sure, odd = folder / "models" / "colors" / "1" / "model.onnx", tmp_path / "[bold]"
    with unfreeze.load_model(sure) as classifier:
        labels = ("[/x]", "[red]", "green")
        manifest = replace(classifier.manifest, sha256=UNSEALED, labels=labels, golden=())
    ModelRepository(odd).publish("odd", with_manifest(onnx.load(sure), manifest), manifest)
    for command in ("info", "bench"):
        shown = run_cli(command, odd / "odd", *(["--batch", "1"] if command == "bench" else []))
        assert shown.returncode == 0, shown.stderr
        assert command == "info" or "[bold]" in "".join(shown.stdout.split())
        assert command == "bench" or "[/x], [red], green" in shown.stdout


@pytest.mark.usefixtures("brief")
def test_bench_reports_latency_and_throughput(folder: Path) -> None:
    """`bench` reports percentiles and throughput for each batch size, and rejects invalid sizes."""
    done = run_cli("bench", folder / "models" / "colors", "--batch", "1,4", "--json")
    assert done.returncode == 0, done.stderr
    timings = json.loads(done.stdout)["timings"]
    assert [timing["batch"] for timing in timings] == [1, 4]
    for timing in timings:
        assert 0 < timing["p50_ms"] <= timing["p90_ms"] <= timing["p99_ms"]
        assert timing["runs"] >= 10
        assert timing["images_per_second"] > 0
    threads = run_cli("bench", folder / "models" / "colors", "--threads", "99999999999")
    assert (threads.returncode, "--threads must be between 0 and 1,024" in threads.stderr) == (2, True)
    wrong = run_cli("bench", folder / "models" / "colors", "--batch", "1,many")
    assert (wrong.returncode, "--batch must be whole numbers from 1 to 4,096" in wrong.stderr) == (2, True)


def test_predict_gives_the_same_results_from_file_and_server(
    folder: Path, server: RunningServer, tmp_path: Path
) -> None:
    """`predict` takes files and folders and prints a table or JSON, with the same results by file and by server."""
    (tmp_path / "one.png").write_bytes(encode(draw_image((200, 30, 30), 1), "PNG"))
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "two.jpg").write_bytes(encode(draw_image((30, 30, 200), 2)))
    model = folder / "models" / "colors" / "1" / "model.onnx"
    images = ("one.png", "more")
    table = run_cli("predict", *images, "--file", model, cwd=tmp_path)
    assert table.returncode == 0
    assert all(name in table.stdout for name in ("one.png", "two.jpg", "blue", "green", "red"))
    inside = json.loads(run_cli("predict", *images, "--file", model, "--top-k", "2", "--json", cwd=tmp_path).stdout)
    assert [Path(item["image"]).name for item in inside] == ["one.png", "two.jpg"]
    assert all(len(item["predictions"]) == 2 for item in inside)
    by_server = run_cli("predict", *images, "--server", server.target, "--top-k", "2", "--json", cwd=tmp_path)
    for one, other in zip(inside, json.loads(by_server.stdout), strict=True):
        assert [item["label"] for item in one["predictions"]] == [item["label"] for item in other["predictions"]]
        assert one["predictions"][0]["score"] == pytest.approx(other["predictions"][0]["score"], abs=1e-5)


def test_predict_marks_answers_below_the_abstention_threshold(
    folder: Path, server: RunningServer, tmp_path: Path
) -> None:
    """By file and by server, the lower of two is marked in table, JSON and CSV; without a threshold, none is."""
    sure = folder / "models" / "colors" / "1" / "model.onnx"
    images = sorted((folder / "images" / "val").rglob("*.jpg"))
    with unfreeze.load_model(sure) as classifier:
        answers = classifier.predict(images, top_k=1)
        assert not any(classifier.is_unsure(answer) for answer in answers)
    chosen = [pick(range(len(images)), key=lambda place: answers[place][0].score) for pick in (min, max)]
    files, low = [images[place] for place in chosen], answers[chosen[0]][0].score
    model = publish_with_threshold(sure, tmp_path / "models", "careful", files)
    with server_thread(tmp_path / "models") as careful:
        for source in (("--file", model), ("--server", careful)):
            table = tmp_path / "table.csv"
            done = run_cli("predict", *files, *source, "--json", "--csv", table)
            assert [item["unsure"] for item in json.loads(done.stdout)] == [True, False]
            assert [row["unsure"] for row in csv.DictReader(table.read_text().splitlines())] == ["true", "false"]
            rows = run_cli("predict", *files, *source).stdout.splitlines()
            assert [f"{low:.4f} unsure" in row for row in rows if "unsure" in row] == [True]
    for source in (("--file", sure), ("--server", server.target)):
        assert [item["unsure"] for item in json.loads(run_cli("predict", *files, *source, "--json").stdout)] == [
            None
        ] * 2
        assert "unsure" not in run_cli("predict", *files, *source).stdout


def test_file_names_with_markup_and_hidden_files_are_printed_verbatim(folder: Path, tmp_path: Path) -> None:
    """A file name with [red] in it is printed verbatim, and a hidden file that is given by name is not skipped."""
    for name in ("x[red].png", ".hidden.png"):
        (tmp_path / name).write_bytes(encode(draw_image((200, 30, 30), 1), "PNG"))
    model = folder / "models" / "colors" / "1" / "model.onnx"
    done = run_cli("predict", "x[red].png", ".hidden.png", "--file", model, "--top-k", "1", cwd=tmp_path)
    assert "x[red].png" in done.stdout
    assert ".hidden.png" in done.stdout


def test_predict_names_the_image_that_does_not_decode(folder: Path, tmp_path: Path) -> None:
    """The one file that is not an image is named, and the exit code is 1."""
    (tmp_path / "good.png").write_bytes(encode(draw_image((200, 30, 30), 1), "PNG"))
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    model = folder / "models" / "colors" / "1" / "model.onnx"
    done = run_cli("predict", tmp_path / "good.png", tmp_path / "bad.jpg", "--file", model)
    assert done.returncode == 1
    assert "bad.jpg: " in _words(done.stderr)
