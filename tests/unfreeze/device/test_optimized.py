"""The saved graph: used when it is whole and of this machine, and never in the way of an answer."""

import json
import os
from pathlib import Path

import onnxruntime
import pytest

from unfreeze.contract import processor
from unfreeze.device import optimized
from unfreeze.device.classify import main
from unfreeze.device.opening import open_model

pytestmark = pytest.mark.xdist_group("commands")


def _saved(device: Path) -> list[Path]:
    return sorted((device / ".optimized").iterdir())


def test_is_saved_once_beside_the_versions_and_used_again(device: Path) -> None:
    """The version's own folder stays as it was signed."""
    before = sorted(path.name for path in (device / "1").iterdir())
    open_model(device / "1" / "model.onnx").close()
    (graph,) = _saved(device)
    changed = graph.stat().st_mtime_ns
    open_model(device / "1" / "model.onnx").close()
    assert _saved(device) == [graph]
    assert graph.stat().st_mtime_ns == changed
    assert sorted(path.name for path in (device / "1").iterdir()) == before


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda _: b"", lambda content: content + b" "])
def test_a_damaged_graph_is_made_again(device: Path, damage: object) -> None:
    """Its digest is in its name."""
    open_model(device / "1" / "model.onnx").close()
    (graph,) = _saved(device)
    content = graph.read_bytes()
    graph.write_bytes(damage(content))
    open_model(device / "1" / "model.onnx").close()
    assert [path.read_bytes() for path in _saved(device)] == [content]


def test_another_machine_or_version_of_onnx_runtime_makes_its_own(
    device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was saved before stays for the other one."""
    open_model(device / "1" / "model.onnx").close()
    monkeypatch.setattr(onnxruntime, "__version__", "9.9.9")
    open_model(device / "1" / "model.onnx").close()
    monkeypatch.setattr(processor, "_CPU_INFO", device / "1" / "SHA256SUMS")
    open_model(device / "1" / "model.onnx").close()
    assert len(_saved(device)) == 3


def test_an_attempt_that_crashed_the_process_is_not_repeated(
    device: Path, images: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its unfinished file stays, and the model itself answers."""
    open_model(device / "1" / "model.onnx").close()
    (graph,) = _saved(device)
    unfinished = graph.with_name(f".{graph.stem[:33]}.onnx")
    graph.rename(unfinished)
    assert main([str(images[0]), "--model", str(device)]) == 0
    assert json.loads(capsys.readouterr().out)["error"] is None
    assert _saved(device) == [unfinished]


def test_an_attempt_that_was_interrupted_is_repeated(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C during the first start leaves nothing that would keep the next ones slow."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(optimized, "verify_answers", interrupt)
        with pytest.raises(KeyboardInterrupt):
            open_model(device / "1" / "model.onnx")
    assert _saved(device) == []
    open_model(device / "1" / "model.onnx").close()
    assert len(_saved(device)) == 1


def test_a_folder_that_cannot_be_written_is_no_obstacle(device: Path) -> None:
    """A file in the folder's place, and a folder without permissions: the model itself answers."""
    (device / ".optimized").write_text("in the way")
    open_model(device / "1" / "model.onnx").close()
    if os.geteuid() != 0:
        (device / ".optimized").unlink()
        device.chmod(0o555)
        open_model(device / "1" / "model.onnx").close()
        device.chmod(0o755)


def test_a_graph_that_answers_differently_is_not_used(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The golden images are classified by the saved graph before it is used."""

    def refuse(*_: object) -> None:
        raise optimized.ModelError("a log-probability differs")

    monkeypatch.setattr(optimized, "verify_answers", refuse)
    with open_model(device / "1" / "model.onnx") as model:
        assert model.run(model.buffer(1)).shape == (1, 3)
    assert all(path.name.startswith(".") for path in _saved(device))
