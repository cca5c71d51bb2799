"""`unfreeze predict`: whole folders, their CSV file, and what becomes of them when something goes wrong."""

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from support.certificates import Authority
from support.echoes import Echo, echoing
from support.images import write_images
from support.runs import write_run
from support.servers import running_server

import unfreeze
from unfreeze.contract.errors import InvalidRequestError, UnknownModelError
from unfreeze.contract.prediction import Prediction
from unfreeze.predicted import Predicted, written_to

OURS = Authority("ours")


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "unfreeze.command", "predict", *map(str, arguments)]


def _run(*arguments: object, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(_command(*arguments), capture_output=True, text=True, timeout=120, check=False, cwd=cwd)


def _words(text: str) -> str:
    return " ".join(text.split())


def _rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.reader(file))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small model."""
    folder = tmp_path_factory.mktemp("predict")
    return unfreeze.export_model(write_run(folder), folder / "models", "colors").path.parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty-two images, and between them a text and half an image."""
    images = write_images(tmp_path / "images", 14)
    whole = (images / "blue" / "000.jpg").read_bytes()
    (images / "green" / "005a.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "red" / "notes.txt").write_text("not an image")
    return images


def test_a_folder_becomes_a_table_by_file_and_by_server(repository: Path, folder: Path, tmp_path: Path) -> None:
    """Each image has its row, in order, with two labels or an error; exit code 1 says that there are errors."""
    model = repository / "colors" / "1" / "model.onnx"
    inside = _run(folder, "--file", model, "--csv", tmp_path / "inside.csv", "--top", "2")
    with running_server(repository, "--instances", "1") as server:
        served = _run(folder, "--server", server.target, "--csv", tmp_path / "served.csv", "--top", "2")
    tables = [_rows(tmp_path / "inside.csv"), _rows(tmp_path / "served.csv")]
    for done, rows in zip((inside, served), tables, strict=True):
        assert done.returncode == 1
        assert done.stdout == ""
        assert "2 of 44 images could not be used; " in _words(done.stderr)
        assert rows[0] == ["path", "label", "score", "label2", "score2", "error"]
        assert [row[0] for row in rows[1:]] == sorted(str(path) for path in folder.rglob("*.*"))
        failed = [row for row in rows[1:] if row[5]]
        assert [Path(row[0]).name for row in failed] == ["005a.jpg", "notes.txt"]
        assert all(row[1:5] == [""] * 4 and row[5].startswith(f"{row[0]}: ") for row in failed)
    for one, other in zip(*tables, strict=True):
        assert (one[:2], one[3], one[5]) == (other[:2], other[3], other[5])
        if one[0] != "path" and not one[5]:
            assert float(one[2]) == pytest.approx(float(other[2]), abs=1e-5)
            assert float(one[2]) >= float(one[4]) > 0
    assert len({row[1] for row in tables[0]}) > 3, "all images got one label"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inside.csv", "images", "served.csv"]


def test_without_a_table_the_others_are_still_shown(repository: Path, folder: Path) -> None:
    """On the terminal errors go to standard error; in JSON they stand in their place too."""
    model = repository / "colors" / "1" / "model.onnx"
    asked = (folder / "red" / "000.jpg", folder / "red" / "notes.txt", folder / "red" / "001.jpg", "--file", model)
    shown, told = _run(*asked), _run(*asked, "--json")
    for done in (shown, told):
        assert done.returncode == 1
        assert f"{folder / 'red' / 'notes.txt'}: " in _words(done.stderr)
        assert "1 of 3 images could not be used" in done.stderr
    assert "000.jpg" in shown.stdout
    assert "001.jpg" in shown.stdout
    document = json.loads(told.stdout)
    assert [len(one["predictions"]) for one in document] == [3, 0, 3]
    assert [one["error"] is None for one in document] == [True, False, True]


def test_the_table_is_no_image_of_its_own_folder(repository: Path, folder: Path) -> None:
    """Asked twice, with the table written into the folder: the second is as the first."""
    model, table = repository / "colors" / "1" / "model.onnx", folder / "blue" / "all.csv"
    for _ in range(2):
        done = _run(folder / "blue", "--file", model, "--csv", table)
        assert (done.returncode, len(_rows(table))) == (0, 15), done.stderr


def _many(folder: Path) -> Path:
    folder.mkdir()
    for number in range(400):
        (folder / f"{number:03}.jpg").write_bytes(b"%d" % number)
    return folder


def test_an_interrupted_folder_leaves_no_table(tmp_path: Path) -> None:
    """Ctrl-C in the middle ends with 130; the table of the last time stays as it was, and nothing lies beside it."""

    def slow_later(number: int, _images: list[bytes]) -> None:
        if number > 2:
            time.sleep(3)

    images, table = _many(tmp_path / "images"), tmp_path / "out" / "table.csv"
    table.parent.mkdir()
    table.write_text("the last time\n")
    with echoing(servicer := Echo(slow_later)) as target:
        command = _command(images, "--server", target, "--csv", table)
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            until = time.monotonic() + 30
            while len(servicer.times) < 4:
                assert time.monotonic() < until
                time.sleep(0.02)
            assert len(list(table.parent.iterdir())) == 2
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=30)
    assert (process.returncode, "Traceback" in told) == (130, False), told
    assert [path.name for path in table.parent.iterdir()] == ["table.csv"]
    assert table.read_text() == "the last time\n"


def test_a_server_that_gives_up_leaves_no_table(tmp_path: Path) -> None:
    """A refusal in the middle that is no image's fault ends with 1 and says why; there is no half table."""

    def gone_later(number: int, _images: list[bytes]) -> None:
        if number > 6:
            raise UnknownModelError("the model was unloaded")

    with echoing(Echo(gone_later)) as target:
        done = _run(_many(tmp_path / "images"), "--server", target, "--csv", tmp_path / "table.csv")
    assert (done.returncode, "error: the model was unloaded" in done.stderr) == (1, True), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_a_guarded_server_is_asked_with_token_and_tls(tmp_path: Path) -> None:
    """Authority, certificate and token come from files; the model's name goes with each request."""
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
        done = _run(tmp_path / "ant.jpg", "--server", target, *given, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)[0]["predictions"][0]["label"] == "ant"
    assert servicer.metadata[0]["authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["--token-file", "nowhere"], "--token-file nowhere cannot be read", 2),
        (["--tls-cert", "a.pem"], "give both --tls-cert and --tls-key", 2),
        (["--csv", "nowhere/out.csv"], "No such file or directory: nowhere/.out.csv.new", 1),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_asked(
    tmp_path: Path, arguments: list[str], message: str, code: int
) -> None:
    """Each wrong option is one line, and no server is asked."""
    (tmp_path / "ant.jpg").write_bytes(b"ant")
    with echoing(servicer := Echo()) as target:
        done = _run("ant.jpg", "--server", target, *arguments, cwd=tmp_path)
    assert (done.returncode, message in _words(done.stderr)) == (code, True), done.stderr
    assert servicer.times == []


def test_a_table_holds_odd_names_and_as_many_columns_as_there_are_labels(tmp_path: Path) -> None:
    """Commas, quotes, line ends and bytes that are no text come back; early errors wait for the header."""
    names = ["first.jpg", 'a,"b".jpg', "two\nlines.jpg", "no\udce9text.jpg"]
    labels = tuple(
        Prediction(label=label, score=score, index=0) for label, score in (("ant, red", 0.75), ("bee", 0.25))
    )
    answers = [
        Predicted(names[0], (), None, "no image"),
        *(Predicted(name, labels, None, None) for name in names[1:]),
    ]
    assert list(written_to(tmp_path / "table.csv", answers)) == answers
    found = ["ant, red", "0.750000", "bee", "0.250000", ""]
    assert _rows(tmp_path / "table.csv") == [
        ["path", "label", "score", "label2", "score2", "error"],
        ["first.jpg", "", "", "", "", "no image"],
        *([name, *found] for name in names[1:]),
    ]
    assert list(written_to(tmp_path / "none.csv", answers[:1])) == answers[:1]
    assert _rows(tmp_path / "none.csv") == [["path", "label", "score", "error"], ["first.jpg", "", "", "no image"]]


def test_an_image_that_a_server_refuses_costs_no_other_its_row(tmp_path: Path) -> None:
    """Of four hundred files, three are refused: all rows are there, and the bar counts all."""

    def refuse(_number: int, images: list[bytes]) -> None:
        for number, image in enumerate(images, start=1):
            if image in (b"0", b"77", b"399"):
                raise InvalidRequestError(f"image {number} of {len(images)}: no image")

    with echoing(Echo(refuse)) as target:
        done = _run(_many(tmp_path / "images"), "--server", target, "--csv", tmp_path / "table.csv")
    rows = _rows(tmp_path / "table.csv")[1:]
    assert done.returncode == 1
    assert "400/400" in done.stderr
    assert "3 of 400 images could not be used" in _words(done.stderr)
    expected = ["" if number in (0, 77, 399) else str(number) for number in range(400)]
    assert [row[1] for row in rows] == expected
    assert [row[3].endswith("jpg: no image") for row in rows] == [not label for label in expected]
