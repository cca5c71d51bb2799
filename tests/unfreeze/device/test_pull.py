"""`pull`: a new version is taken whole, checked and tried, or not at all."""

import fcntl
import io
import json
import os
import resource
import shutil
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import fsspec
import fsspec.implementations.memory
import pytest
from support.cli import run_cli
from support.device_models import publish_again
from support.file_server import FileServer, serving

from unfreeze.contract.errors import OptionsError, RefusedVersionError, SourceError, UnfreezeError
from unfreeze.device.opening import load_usable
from unfreeze.device.pull import main
from unfreeze.device.update import Pulled, PullOptions, pull
from unfreeze.device.versions import list_versions, read_current

pytestmark = pytest.mark.xdist_group("commands")


@pytest.fixture
def source(exported: Path, tmp_path: Path) -> Path:
    """A source with version 1, and nothing but its versions."""
    folder = tmp_path / "source" / "colors"
    shutil.copytree(exported.parent, folder / "1")
    return folder


@pytest.fixture
def web(source: Path) -> Iterator[FileServer]:
    """A web server of the source, whose channel names version 1."""
    (source / "stable").write_text("1\n")
    with serving(source) as server:
        yield server


def _pull(source: object, device: Path, **options: object) -> Pulled:
    return pull(PullOptions(source=str(source), into=device, **options))


def _answers(device: Path) -> int | None:
    """Return which version answers on the device."""
    loaded = load_usable(device)
    assert loaded.model.run(loaded.model.buffer(1)).shape == (1, 3)
    return loaded.version.number


def _unfinished(device: Path) -> set[str]:
    return {path.name for path in (device / ".pull").iterdir()} - {"lock", "refused.json"}


def test_takes_the_newest_version_of_a_folder(source: Path, exported: Path, tmp_path: Path) -> None:
    """The first and each newer one; the one before stays, older ones and their saved graphs are deleted."""
    device = tmp_path / "new" / "colors"
    assert _pull(source, device).version == 1
    assert _answers(device) == 1
    assert _pull(source, device) == Pulled(installed=False, version=1, previous=None)
    for number in (2, 3):
        assert publish_again(exported, source) == number
        done = _pull(source, device)
        assert (done.installed, done.version, done.previous) == (True, number, number - 1)
        assert _answers(device) == number
    assert list_versions(device) == (2, 3)
    assert read_current(device) == (3, 2)
    assert _unfinished(device) == set()
    for file in (source / "3").iterdir():
        assert (device / "3" / file.name).read_bytes() == file.read_bytes()


def test_a_channel_decides_which_version_is_taken(source: Path, exported: Path, tmp_path: Path) -> None:
    """`stable` by default, another one by its name; one that does not exist, or has no number, is an error."""
    publish_again(exported, source)
    (source / "stable").write_text("1\n")
    (source / "canary").write_text("2\n")
    assert _pull(source, tmp_path / "a").version == 1
    assert _pull(source, tmp_path / "b", channel="canary").version == 2
    with pytest.raises(SourceError, match="the source has no channel beta"):
        _pull(source, tmp_path / "b", channel="beta")
    (source / "stable").write_text("../7")
    with pytest.raises(SourceError, match="the channel stable must contain the number of a version"):
        _pull(source, tmp_path / "a")
    with pytest.raises(OptionsError, match="--channel must be a name"):
        _pull(source, tmp_path / "a", channel="../secret")


def test_an_older_version_is_taken_only_if_allowed(source: Path, exported: Path, tmp_path: Path) -> None:
    """A channel that names one is refused without --allow-downgrade; a folder that has none newer is not."""
    publish_again(exported, source)
    _pull(source, tmp_path / "device")
    (source / "stable").write_text("1\n")
    with pytest.raises(UnfreezeError, match="names version 1, and 2 is in use: --allow-downgrade takes the older one"):
        _pull(source, tmp_path / "device")
    assert _answers(tmp_path / "device") == 2
    done = _pull(source, tmp_path / "device", allow_downgrade=True)
    assert (done.version, done.previous) == (1, 2)
    assert _answers(tmp_path / "device") == 1
    shutil.rmtree(source / "2")
    (source / "stable").write_text("2\n")
    with pytest.raises(SourceError, match="the source has no 2/SHA256SUMS"):
        _pull(source, tmp_path / "device")
    (source / "stable").unlink()
    assert _pull(source, tmp_path / "device").installed is False


def test_over_http_a_channel_is_needed_and_an_interruption_costs_nothing(web: FileServer, tmp_path: Path) -> None:
    """The connection breaks in the middle: the rest is received by the same pull, and nothing twice."""
    web.break_after = 100_000
    done = _pull(f"{web.url}/", tmp_path / "device")
    size = (web.folder / "1" / "model.onnx").stat().st_size
    first, second = web.models_requested()
    assert (first, done.version) == (None, 1)
    assert int(second.removeprefix("bytes=").removesuffix("-")) >= 100_000
    assert web.sent == size
    assert done.bytes == size + (web.folder / "1" / "MODEL_CARD.md").stat().st_size
    (web.folder / "stable").unlink()
    with pytest.raises(SourceError, match="the source has no channel stable"):
        _pull(web.url, tmp_path / "device")


def test_a_file_that_changed_in_between_is_received_from_the_beginning(web: FileServer, tmp_path: Path) -> None:
    """The unfinished file is of another entity: the server sends all of the new one."""
    (folder := tmp_path / "device" / ".pull" / "parts").mkdir(parents=True)
    digest = (web.folder / "1" / "SHA256SUMS").read_text().split()[0]
    (folder / f"{digest}.part").write_bytes(b"x" * 5000)
    (folder / f"{digest}.state").write_text('"another"')
    (folder / "older.part").write_bytes(b"of another version")
    done = _pull(web.url, tmp_path / "device")
    assert web.models_requested() == ["bytes=5000-"]
    assert (done.installed, done.resumed) == (True, 0)


def test_an_unfinished_file_that_was_damaged_is_received_again(web: FileServer, tmp_path: Path) -> None:
    """Its beginning is wrong, which only the digest at the end shows; then once more from the beginning."""
    content = (web.folder / "1" / "model.onnx").read_bytes()
    (folder := tmp_path / "device" / ".pull" / "parts").mkdir(parents=True)
    digest = (web.folder / "1" / "SHA256SUMS").read_text().split()[0]
    (folder / f"{digest}.part").write_bytes(bytes(50_000))
    (folder / f"{digest}.state").write_text(f'"{digest}"')
    assert _pull(web.url, tmp_path / "device").installed
    assert web.models_requested() == ["bytes=50000-", None]
    assert (tmp_path / "device" / "1" / "model.onnx").read_bytes() == content


def test_a_server_without_ranges_sends_the_whole_file_again(web: FileServer, tmp_path: Path) -> None:
    """It answers 200 to a request for a part."""
    web.ranges, web.break_after = False, 100_000
    assert _pull(web.url, tmp_path / "device").installed
    assert len(web.models_requested()) == 2
    assert _answers(tmp_path / "device") == 1


def test_a_server_that_always_breaks_off_is_given_up(
    web: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without ranges, each attempt begins anew: after three that came no further, the pull ends."""
    monkeypatch.setattr("unfreeze.device.download._WAITS_S", (0.0, 0.0, 0.0))
    web.ranges, web.break_after, web.breaks_always = False, 100_000, True
    with pytest.raises(SourceError, match=r"1/model.onnx (ended after|was interrupted)"):
        _pull(web.url, tmp_path / "device")
    assert len(web.models_requested()) == 4


def test_a_url_may_have_a_user_and_any_letters(web: FileServer, tmp_path: Path) -> None:
    """The password is sent as HTTP's basic access, and is in no message."""
    (web.folder / "große blüten").mkdir()
    for name in ("1", "stable"):
        (web.folder / name).rename(web.folder / "große blüten" / name)
    url = web.url.replace("://", "://me:s%40cret@")
    assert _pull(f"{url}/große blüten", tmp_path / "device").version == 1
    assert _pull(f"{url}/gro%C3%9Fe%20bl%C3%BCten", tmp_path / "other").version == 1
    assert set(web.access) == {f"Basic {b64encode(b'me:s@cret').decode()}"}
    with pytest.raises(SourceError, match="no channel stable") as caught:
        _pull(f"{url}/gone", tmp_path / "device")
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://[bad/x", "http://h:port/x", "http://h:99999/x", "http:///x", "https://ä..b/x"])
def test_a_url_that_is_not_valid_is_one_line(url: str, tmp_path: Path) -> None:
    """Instead of the error of the library that parses it."""
    with pytest.raises(SourceError, match="the source is not a valid URL"):
        _pull(url, tmp_path / "device")


def test_the_source_is_never_the_folder_that_is_changed(source: Path, exported: Path) -> None:
    """Pull would delete the versions that were published there, but the last two."""
    for _ in range(3):
        publish_again(exported, source)
    link = source.with_name("link")
    link.symlink_to(source)
    with pytest.raises(OptionsError, match="is the source itself"):
        _pull(source, link)
    assert list_versions(source) == (1, 2, 3, 4)


def test_a_tampered_file_is_refused_and_remembered(source: Path, device: Path, exported: Path) -> None:
    """It does not have the digest of SHA256SUMS; it is not received again before a day has passed."""
    publish_again(exported, source)
    model = source / "2" / "model.onnx"
    content = model.read_bytes()
    model.write_bytes(content[:-1] + b"x")
    with pytest.raises(RefusedVersionError, match=r"version 2 is refused: 2/model.onnx does not have the SHA-256"):
        _pull(source, device)
    with pytest.raises(RefusedVersionError, match="version 2 was refused before"):
        _pull(source, device)
    assert (_answers(device), _unfinished(device)) == (1, set())
    model.write_bytes(content)
    entries = json.loads((device / ".pull" / "refused.json").read_text())
    ((identity, entry),) = entries.items()
    entry["until"] -= 90_000
    (device / ".pull" / "refused.json").write_text(json.dumps({identity: entry}))
    assert _pull(source, device).version == 2


def test_a_version_that_fails_on_this_device_is_refused_and_remembered(
    source: Path, device: Path, exported: Path
) -> None:
    """Its golden images are classified differently; a newer version is taken all the same."""
    publish_again(exported, source, broken=True)
    with pytest.raises(RefusedVersionError, match=r"version 2 is refused: .*a log-probability differs"):
        _pull(source, device)
    with pytest.raises(RefusedVersionError, match=r"not tried again without --retry-bad: .*a log-probability differs"):
        _pull(source, device)
    with pytest.raises(RefusedVersionError, match="version 2 is refused"):
        _pull(source, device, retry_bad=True)
    assert (_answers(device), _unfinished(device)) == (1, set())
    publish_again(exported, source)
    assert _pull(source, device).version == 3
    assert list_versions(device) == (1, 3)


@pytest.mark.parametrize(
    "index",
    [
        "",
        "no digest  model.onnx\n",
        f"{'0' * 64}  ../../model.onnx\n",
        f"{'0' * 64}  labels.txt\n",
        f"{'0' * 64}  model.onnx\n{'1' * 64}  model.onnx\n",
        f"{'0' * 64}  model.onnx\n{'0' * 64}  SHA256SUMS\n",
        "".join(f"{'0' * 64}  {number}\n" for number in range(65)),
    ],
)
def test_an_index_that_is_not_valid_is_refused(index: str, source: Path, device: Path, exported: Path) -> None:
    """No name leaves the folder, none is listed twice, and the model must be one of them."""
    publish_again(exported, source)
    (source / "2" / "SHA256SUMS").write_text(index)
    with pytest.raises(RefusedVersionError, match="SHA256SUMS of version 2"):
        _pull(source, device)
    assert _answers(device) == 1


def test_a_source_that_is_gone_is_an_error_that_is_not_remembered(source: Path, device: Path, exported: Path) -> None:
    """A folder that is not there, a server that does not answer, a file that is missing; then it is there."""
    publish_again(exported, source)
    away = source.rename(source.with_name("away"))
    with pytest.raises(SourceError, match="there is no folder"):
        _pull(source, device)
    with pytest.raises(SourceError, match=r"cannot reach http://127\.0\.0\.1:9/m/stable"):
        _pull("http://user:secret@127.0.0.1:9/m?key=secret", device)
    away.rename(source)
    (source / "stable").write_text("2\n")
    hidden = (source / "2" / "model.onnx").rename(source / "hidden")
    with pytest.raises(SourceError, match="there is no file"):
        _pull(source, device)
    assert _answers(device) == 1
    hidden.rename(source / "2" / "model.onnx")
    assert _pull(source, device).version == 2


def test_a_pipe_is_not_read(source: Path, device: Path) -> None:
    """It would never end, as a channel's file or as a model."""
    os.mkfifo(source / "stable")
    with pytest.raises(SourceError, match="stable is not a regular file"):
        _pull(source, device)
    assert _answers(device) == 1


def test_a_full_disk_keeps_the_old_version(source: Path, device: Path, exported: Path) -> None:
    """No file may be larger than a megabyte: one line, exit code 1, and what was received is deleted."""
    publish_again(exported, source)
    command = [sys.executable, "-m", "unfreeze.device.pull", str(source), "--into", str(device), "--json"]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=limit)
    assert done.returncode == 1
    assert "no space is left for 2/model.onnx" in done.stderr
    assert json.loads(done.stdout) == {"installed": False, "version": 1, "error": done.stderr.strip()[7:]}
    assert list((device / ".pull" / "parts").iterdir()) == []
    assert _answers(device) == 1
    assert _pull(source, device).version == 2


def test_a_damaged_version_in_use_is_received_again(source: Path, device: Path, exported: Path) -> None:
    """The disk has changed a byte: pull repairs it from the source, although the version is not newer."""
    with (device / "1" / "model.onnx").open("r+b") as file:
        file.write(b"damaged")
    assert _pull(source, device).installed
    assert (device / "1" / "model.onnx").read_bytes() == exported.read_bytes()
    assert _answers(device) == 1


def test_two_pulls_do_not_run_at_once(source: Path, device: Path) -> None:
    """The second one ends with an error; the lock of a process that has ended holds nobody up."""
    (device / ".pull").mkdir()
    with (device / ".pull" / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UnfreezeError, match="another pull is running"):
            _pull(source, device)
    assert _pull(source, device).version == 1


def test_a_source_of_fsspec_is_read_like_a_folder(source: Path, exported: Path, tmp_path: Path) -> None:
    """With fsspec's file system in memory, which stands for a bucket; an unknown protocol is an error."""
    publish_again(exported, source)
    fsspec.filesystem("memory").put(str(source), "/bucket/colors", recursive=True)
    assert _pull("memory://bucket/colors", tmp_path / "device").version == 2
    assert _answers(tmp_path / "device") == 2
    with pytest.raises(SourceError, match="nothing://x cannot be used"):
        _pull("nothing://x", tmp_path / "device")


class _Breaking(fsspec.implementations.memory.MemoryFileSystem):
    """A bucket whose driver has errors of its own in the middle of a file."""

    protocol, store, pseudo_dirs = "breaking", {}, [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("breaking://", "memory://"))

    def open(self, path: str, mode: str = "rb", **options: object) -> object:
        if path.endswith("model.onnx") and mode == "rb":
            return _BreakingFile(super().open(path, mode, **options).getvalue())
        return super().open(path, mode, **options)


class _BreakingFile(io.BytesIO):
    def read(self, size: int = -1) -> bytes:
        if self.tell():
            raise RuntimeError("the driver's own error")
        return super().read(size)


def test_an_error_of_a_driver_is_an_interruption(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its type: one line, and what was received stays."""
    monkeypatch.setattr("unfreeze.device.download._WAITS_S", (0.0,))
    fsspec.register_implementation("breaking", _Breaking, clobber=True)
    fsspec.filesystem("breaking").put(str(source), "/bucket/colors", recursive=True)
    with pytest.raises(SourceError, match=r"cannot read 1/model.onnx: the driver's own error"):
        _pull("breaking://bucket/colors", tmp_path / "device")


def test_the_command_prints_one_line_or_json(source: Path, device: Path, exported: Path, tmp_path: Path) -> None:
    """Exit code 0 for a new version and for none, 1 for a failure, 2 for wrong usage."""
    done = run_cli("pull", source, "--into", device)
    assert (done.returncode, done.stderr) == (0, "version 1 is in use, and there is no newer one\n")
    publish_again(exported, source)
    done = run_cli("pull", source, "--into", device, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout).items() >= {"installed": True, "version": 2, "previous": 1, "error": None}.items()
    assert run_cli("pull", tmp_path / "gone", "--into", device).returncode == 1
    assert run_cli("pull", source, "--into", device, "--public-key", tmp_path / "gone.pem").returncode == 2
    assert main([str(source), "--into", str(device), "--channel", "UP"]) == 2


def test_a_folder_that_cannot_be_written_is_one_line(source: Path, tmp_path: Path) -> None:
    """A file is in the place of the model's folder."""
    (tmp_path / "file").write_text("")
    done = run_cli("pull", source, "--into", tmp_path / "file")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert os.linesep not in done.stderr.strip()
