"""Pulls that are killed at chosen points: the device answers with a whole version, and the next pull completes."""

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from support.device_models import Classifying, classifying, publish_again
from support.file_server import FileServer, serving
from support.killing import pull_until

from unfreeze.device.opening import load_version
from unfreeze.device.update import PullOptions, pull
from unfreeze.device.versions import list_versions, read_current, version_files

pytestmark = pytest.mark.xdist_group("commands")
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["support.killing"])
BYTE_POINTS = 12


@pytest.fixture
def web(exported: Path, tmp_path: Path) -> Iterator[FileServer]:
    """A web server with versions 1 to 3, whose channel names version 3."""
    folder = tmp_path / "source" / "colors"
    for _ in range(3):
        publish_again(exported, folder)
    (folder / "stable").write_text("3\n")
    with serving(folder) as server:
        yield server


@pytest.fixture
def before(exported: Path, tmp_path: Path) -> Path:
    """A device with version 2 in use and version 1 before it; copied for each point."""
    source, folder = tmp_path / "first" / "colors", tmp_path / "before" / "colors"
    for _ in range(2):
        publish_again(exported, source)
        pull(PullOptions(source=str(source), into=folder))
    assert read_current(folder) == (2, 1)
    return folder


@pytest.fixture
def running(before: Path, tmp_path: Path) -> Iterator[Classifying]:
    """A process that classifies throughout, with the folder in which the pulls happen."""
    device, inbox = tmp_path / "device" / "colors", tmp_path / "inbox"
    shutil.copytree(before, device)
    inbox.mkdir()
    with classifying("--watch", inbox, "--existing", "--model", device, "--follow") as process:
        yield process


def _start(number: int, web: FileServer, device: Path) -> BaseProcess:
    process = _CONTEXT.Process(target=pull_until, args=(number, web.url, device))
    process.start()
    return process


def _fresh(before: Path, device: Path) -> None:
    """Put the device back to the state before the pull; `classify` goes on all the while."""
    shutil.copytree(before, fresh := device.with_name("fresh"))
    device.rename(old := device.with_name(f"old-{time.monotonic_ns()}"))
    fresh.rename(device)
    shutil.rmtree(old, ignore_errors=True)  # `classify` may still be saving a graph in it


def _check_whole(device: Path, content: bytes) -> int | None:
    """Check that every version on the device is whole and the first one answers; return its number."""
    for number in list_versions(device):
        assert (device / str(number) / "model.onnx").read_bytes() == content
        assert (device / str(number) / "SHA256SUMS").is_file()
    loaded = load_version(version_files(device)[0])
    assert loaded.model.run(loaded.model.buffer(1)).shape == (1, 3)
    return loaded.version.number


def _check_completes(web: FileServer, device: Path, content: bytes) -> int:
    """Check that the next pull completes; return how many bytes it did not receive again."""
    done = pull(PullOptions(source=web.url, into=device))
    assert (done.version, done.previous) == (3, 2)
    assert _check_whole(device, content) == 3
    assert (read_current(device), list_versions(device)) == ((3, 2), (2, 3))
    assert {path.name for path in (device / ".pull").iterdir()} == {"lock"}
    return done.resumed


def _ask(running: Classifying, inbox: Path, image: Path, name: str) -> None:
    """Check that the process that classifies throughout answers now, with a whole version."""
    shutil.copy(image, inbox / name)
    line = running.line()
    assert (line["image"], line["error"]) == (str(inbox / name), None)
    assert line["version"] in (2, 3)


def _kill_at_bytes(point: int, web: FileServer, device: Path) -> int | None:
    """Pull, killed when so many bytes of the model were sent and are on disk; return the exit code."""
    process: list[BaseProcess] = []

    def kill() -> None:
        parts = device / ".pull" / "parts"
        while sum(part.stat().st_size for part in parts.glob("*.part")) < web.sent:
            time.sleep(0.005)  # the network's buffers hold the rest
        os.kill(process[0].pid, signal.SIGKILL)

    web.sent, web.at_bytes, web.reached = 0, point, kill
    process.append(_start(0, web, device))
    process[0].join(60)
    return process[0].exitcode


Setup = tuple[FileServer, Path, Classifying]


def _at_bytes(setup: Setup, points: list[int], tmp_path: Path, image: Path) -> None:
    web, before, running = setup
    device, content = tmp_path / "device" / "colors", (before / "2" / "model.onnx").read_bytes()
    for point in points:
        _fresh(before, device)
        assert _kill_at_bytes(point, web, device) == -signal.SIGKILL
        assert _check_whole(device, content) == 2
        _ask(running, tmp_path / "inbox", image, f"{point}.jpg")
        web.sent = 0
        resumed = _check_completes(web, device, content)
        assert resumed + web.sent == len(content), "something was received twice"
        assert resumed >= point


def _at_operations(setup: Setup, numbers: Callable[[int], bool], tmp_path: Path, image: Path) -> int:
    """Kill at those operations for which `numbers` is true; return how many there are until a pull ends by itself."""
    web, before, running = setup
    device, content = tmp_path / "device" / "colors", (before / "2" / "model.onnx").read_bytes()
    answered, killed = set(), 0
    for number in range(1, 100):
        if not numbers(number):
            continue
        _fresh(before, device)
        process = _start(number, web, device)
        process.join(60)
        answered.add(_check_whole(device, content))
        _ask(running, tmp_path / "inbox", image, f"operation {number}.jpg")
        _check_completes(web, device, content)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        killed += 1
    assert process.exitcode == 0
    assert answered == {2, 3}
    return killed


def test_killed_at_six_points_a_device_answers_and_the_next_pull_completes(
    web: FileServer, before: Path, running: Classifying, tmp_path: Path, images: list[Path]
) -> None:
    """At two numbers of bytes, and at some of the operations on files."""
    size = (before / "2" / "model.onnx").stat().st_size
    _at_bytes((web, before, running), [0, size // 2], tmp_path, images[0])
    killed = _at_operations((web, before, running), lambda number: number % 5 == 4, tmp_path, images[0])
    assert killed >= 4
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(30) == 0


@pytest.mark.exhaustive
@pytest.mark.slow
def test_killed_at_every_point_a_device_answers_and_the_next_pull_completes(
    web: FileServer, before: Path, running: Classifying, tmp_path: Path, images: list[Path]
) -> None:
    """At twelve numbers of bytes, and at each of the operations on files: at least thirty points."""
    size = (before / "2" / "model.onnx").stat().st_size
    points = [size * number // BYTE_POINTS for number in range(BYTE_POINTS)]
    _at_bytes((web, before, running), points, tmp_path, images[0])
    killed = _at_operations((web, before, running), lambda _: True, tmp_path, images[0])
    assert killed + len(points) >= 30
    print(f"{killed} operations, {len(points)} numbers of bytes")  # noqa: T201
