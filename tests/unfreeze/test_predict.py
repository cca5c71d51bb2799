"""`unfreeze predict` on whole folders: the CSV file, and failures in the middle."""

import csv
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import pytest
from support.certificates import Authority
from support.cli import run_cli
from support.echoes import Echo, echoing
from support.images import write_images
from support.servers import RunningServer

from unfreeze.contract.errors import InvalidRequestError, UnknownModelError
from unfreeze.contract.prediction import Prediction
from unfreeze.prediction_csv import PredictionResult, write_csv

OURS = Authority("ours")

pytestmark = pytest.mark.xdist_group("commands")


def _words(text: str) -> str:
    return " ".join(text.split())


def _rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.reader(file))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of 42 images, a text file and a truncated image."""
    made = write_images(tmp_path / "images", 14)
    whole = (made / "blue" / "000.jpg").read_bytes()
    (made / "green" / "005a.jpg").write_bytes(whole[: len(whole) // 2])
    (made / "red" / "notes.txt").write_text("not an image")
    return made


def test_csv_has_a_row_for_each_file_of_a_folder(
    folder: Path, server: RunningServer, images: Path, tmp_path: Path
) -> None:
    """By file and by server, each row has two labels or an error, in order; the exit code 1 reports the errors."""
    model = folder / "models" / "colors" / "1" / "model.onnx"
    inside = run_cli("predict", images, "--file", model.parents[1], "--csv", tmp_path / "inside.csv", "--top-k", "2")
    served = run_cli("predict", images, "--server", server.target, "--csv", tmp_path / "served.csv", "--top-k", "2")
    tables = [_rows(tmp_path / "inside.csv"), _rows(tmp_path / "served.csv")]
    for done, rows in zip((inside, served), tables, strict=True):
        assert done.returncode == 1
        assert done.stdout == ""
        assert "2 of 44 images could not be classified; " in _words(done.stderr)
        assert rows[0] == [
            "path",
            "label",
            "score",
            "label2",
            "score2",
            "unsure",
            "out_of_distribution",
            "ood_score",
            "error",
        ]
        assert [row[0] for row in rows[1:]] == sorted(str(path) for path in images.rglob("*.*"))
        failed = [row for row in rows[1:] if row[-1]]
        assert [Path(row[0]).name for row in failed] == ["005a.jpg", "notes.txt"]
        assert all(row[1:8] == [""] * 7 and row[8].startswith(f"{row[0]}: ") for row in failed)
    for one, other in zip(*tables, strict=True):
        assert (one[:2], one[3], one[5:]) == (other[:2], other[3], other[5:])
        if one[0] != "path" and not one[8]:
            assert float(one[2]) == pytest.approx(float(other[2]), abs=1e-5)
            assert float(one[2]) >= float(one[4]) > 0
    assert len({row[1] for row in tables[0]}) > 3, "all images got one label"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "inside.csv", "served.csv"]


def test_failed_images_are_reported_beside_the_others(folder: Path, images: Path) -> None:
    """Without --csv, errors go to standard error; with --json, they are in the document too."""
    model = folder / "models" / "colors" / "1" / "model.onnx"
    files = [images / "red" / name for name in ("000.jpg", "notes.txt", "001.jpg")]
    table, document = run_cli("predict", *files, "--file", model), run_cli("predict", *files, "--file", model, "--json")
    for done in (table, document):
        assert done.returncode == 1
        assert f"{images / 'red' / 'notes.txt'}: " in _words(done.stderr)
        assert "1 of 3 images could not be classified" in done.stderr
    assert "000.jpg" in table.stdout
    assert "001.jpg" in table.stdout
    results = json.loads(document.stdout)
    assert [len(one["predictions"]) for one in results] == [3, 0, 3]
    assert [one["error"] is None for one in results] == [True, False, True]


def test_csv_inside_the_folder_is_not_an_image(folder: Path, images: Path) -> None:
    """Run twice with the CSV file written into the folder, the second run is as the first."""
    model, table = folder / "models" / "colors" / "1" / "model.onnx", images / "blue" / "all.csv"
    for _ in range(2):
        done = run_cli("predict", images / "blue", "--file", model, "--csv", table)
        assert (done.returncode, len(_rows(table))) == (0, 15), done.stderr


def _many(folder: Path) -> Path:
    folder.mkdir()
    for number in range(400):
        (folder / f"{number:03}.jpg").write_bytes(b"%d" % number)
    return folder


def test_interrupt_keeps_the_previous_csv(tmp_path: Path) -> None:
    """Ctrl-C in the middle exits with 130; the CSV file of the previous run is unchanged, with no file beside it."""
    ended = threading.Event()

    def wait_later(number: int, _images: list[bytes]) -> None:
        if number > 2:
            ended.wait(30)

    images, table = _many(tmp_path / "images"), tmp_path / "out" / "table.csv"
    table.parent.mkdir()
    table.write_text("the previous run\n")
    with echoing(servicer := Echo(wait_later)) as target:
        command = [sys.executable, "-m", "unfreeze.command", "predict", str(images)]
        command += ["--server", target, "--csv", str(table)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            until = time.monotonic() + 30
            while len(servicer.times) < 4:
                assert time.monotonic() < until
                time.sleep(0.02)
            assert len(list(table.parent.iterdir())) == 2
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=30)
        ended.set()
    assert (process.returncode, "Traceback" in stderr) == (130, False), stderr
    assert [path.name for path in table.parent.iterdir()] == ["table.csv"]
    assert table.read_text() == "the previous run\n"


def test_server_failure_leaves_no_csv(tmp_path: Path) -> None:
    """An error in the middle that no image caused exits with 1 and its message; there is no partial CSV file."""

    def gone_later(number: int, _images: list[bytes]) -> None:
        if number > 6:
            raise UnknownModelError("the model was unloaded")

    with echoing(Echo(gone_later)) as target:
        done = run_cli("predict", _many(tmp_path / "images"), "--server", target, "--csv", tmp_path / "table.csv")
    assert (done.returncode, "error: the model was unloaded" in done.stderr) == (1, True), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_predict_uses_token_and_client_certificate(tmp_path: Path) -> None:
    """The certificate authority, the client certificate and the token are read from files."""
    (tmp_path / "ours.pem").write_bytes(OURS.cert)
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "token").chmod(0o600)
    (tmp_path / "ant.jpg").write_bytes(b"ant")
    cert, key = OURS.issue("client").write(tmp_path, "client")
    pair = OURS.issue("server")
    credentials = grpc.ssl_server_credentials([(pair.key, pair.cert)], OURS.cert, require_client_auth=True)
    given = (
        "--tls-ca",
        tmp_path / "ours.pem",
        "--tls-cert",
        cert,
        "--tls-key",
        key,
        "--token-file",
        tmp_path / "token",
    )
    with echoing(servicer := Echo(), credentials) as target:
        done = run_cli("predict", tmp_path / "ant.jpg", "--server", target, *given, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)[0]["predictions"][0]["label"] == "ant"
    assert servicer.metadata[0]["authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["--token-file", "nowhere"], "cannot read --token-file nowhere", 2),
        (["--tls-cert", "a.pem"], "give both --tls-cert and --tls-key", 2),
        (["--csv", "nowhere/out.csv"], "No such file or directory: nowhere/.out.csv.new", 1),
    ],
)
def test_unusable_file_is_reported_before_any_request(
    tmp_path: Path, arguments: list[str], message: str, code: int
) -> None:
    """Each error is one line, and no request is sent."""
    (tmp_path / "ant.jpg").write_bytes(b"ant")
    with echoing(servicer := Echo()) as target:
        done = run_cli("predict", "ant.jpg", "--server", target, *arguments, cwd=tmp_path)
    assert (done.returncode, message in _words(done.stderr)) == (code, True), done.stderr
    assert servicer.times == []


def test_csv_keeps_odd_names_and_has_a_column_for_each_label(tmp_path: Path) -> None:
    """Commas, quotes, line breaks and bytes that are not UTF-8 round-trip; early errors wait for the header."""
    names = ["first.jpg", 'a,"b".jpg', "two\nlines.jpg", "no\udce9text.jpg"]
    labels = tuple(
        Prediction(label=label, score=score, index=0) for label, score in (("ant, red", 0.75), ("bee", 0.25))
    )
    marks = (True, False, None)
    answers = [
        PredictionResult(names[0], (), None, "no image"),
        *(PredictionResult(name, labels, mark, None, -12.5, mark) for name, mark in zip(names[1:], marks, strict=True)),
    ]
    assert list(write_csv(tmp_path / "table.csv", answers)) == answers
    found = ["ant, red", "0.750000", "bee", "0.250000"]
    assert _rows(tmp_path / "table.csv") == [
        ["path", "label", "score", "label2", "score2", "unsure", "out_of_distribution", "ood_score", "error"],
        ["first.jpg", "", "", "", "", "", "", "", "no image"],
        *([name, *found, mark, mark, "-12.5", ""] for name, mark in zip(names[1:], ("true", "false", ""), strict=True)),
    ]
    assert list(write_csv(tmp_path / "none.csv", answers[:1])) == answers[:1]
    assert _rows(tmp_path / "none.csv") == [
        ["path", "label", "score", "unsure", "out_of_distribution", "ood_score", "error"],
        ["first.jpg", "", "", "", "", "", "no image"],
    ]


def test_rejected_images_do_not_affect_the_other_rows(tmp_path: Path) -> None:
    """If the server rejects 3 of 400 files, all 400 rows are there, and the progress bar counts all."""

    def refuse(_number: int, images: list[bytes]) -> None:
        for number, image in enumerate(images, start=1):
            if image in (b"0", b"77", b"399"):
                raise InvalidRequestError(f"image {number} of {len(images)}: no image")

    with echoing(Echo(refuse)) as target:
        done = run_cli("predict", _many(tmp_path / "images"), "--server", target, "--csv", tmp_path / "table.csv")
    rows = _rows(tmp_path / "table.csv")[1:]
    assert done.returncode == 1
    assert "400/400" in done.stderr
    assert "3 of 400 images could not be classified" in _words(done.stderr)
    expected = ["" if number in (0, 77, 399) else str(number) for number in range(400)]
    assert [row[1] for row in rows] == expected
    assert [row[6].endswith("jpg: no image") for row in rows] == [not label for label in expected]
