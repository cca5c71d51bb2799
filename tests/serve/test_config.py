"""Where a server's options come from: the command line, the environment, a file, in this order."""

import subprocess
import sys
from pathlib import Path

import pytest
from cyclopts import CycloptsError

from unfreeze.command import app
from unfreeze.contract.errors import OptionsError
from unfreeze.serve.observability.logs import LogOptions
from unfreeze.serve.options import ServeOptions


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of options."""
    path = tmp_path / "unfreeze.toml"
    path.write_text('repository = "of-file"\nmax_batch = 3\nmax-queue = 5\nmetrics = false\nlog_format = "json"\n')
    return path


def _asked(*arguments: object) -> tuple[ServeOptions, LogOptions]:
    _, bound, _ = app.parse_args(["serve", *map(str, arguments)], exit_on_error=False, print_error=False)
    return bound.arguments["options"], bound.arguments.get("logs", LogOptions())


def test_a_file_is_enough(file: Path) -> None:
    """Everything can be said in a file, with underscores or dashes, and what it leaves out is as always."""
    options, logs = _asked("--config", file)
    assert options == ServeOptions(repository=Path("of-file"), max_batch=3, max_queue=5, metrics=False)
    assert logs == LogOptions(log_format="json")


def test_the_environment_goes_before_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable replaces the file's value and leaves its others; another names the file itself."""
    for name, value in {"CONFIG": str(file), "MAX_BATCH": "7", "METRICS": "true", "LOG_LEVEL": "debug"}.items():
        monkeypatch.setenv(f"UNFREEZE_{name}", value)
    options, logs = _asked()
    assert options == ServeOptions(repository=Path("of-file"), max_batch=7, max_queue=5)
    assert logs == LogOptions(log_format="json", log_level="debug")


def test_the_command_line_goes_before_both(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given on the command line stands, whatever else is said; the rest comes from where it stood."""
    monkeypatch.setenv("UNFREEZE_MAX_BATCH", "7")
    monkeypatch.setenv("UNFREEZE_REPOSITORY", "of-environment")
    options, logs = _asked("--config", file, "--max-batch", 9, "--log-format", "human")
    assert options == ServeOptions(repository=Path("of-environment"), max_batch=9, max_queue=5, metrics=False)
    assert logs == LogOptions()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prot = 9000", "holds 'prot', which is no option"),
        ("[serve]\nport = 9000", "holds 'serve', which is no option of `unfreeze serve`; options stand at its top"),
        ("tune = 1", "holds 'tune', which is no option"),
        ('config = "other.toml"', "holds 'config', which is no option"),
        ("port = [1, 2]", "holds 'port', which is no option"),
        ("port = 70000", r"--port goes from 0 to 65,535, found 70000 \(from \[port\] of .*unfreeze.toml\)"),
        ('port = "many"', r'\[port\] from .*unfreeze.toml: unable to convert "many" into int'),
        ('log_level = "loud"', r"\[log_level\] from .*unfreeze.toml. Choose from: "),
        ("port = ", "unfreeze.toml is no TOML: Invalid value"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(file: Path, content: str, message: str) -> None:
    """Keys that are no options and values that are none of theirs are refused, with the file and the key."""
    file.write_text(content)
    with pytest.raises((OptionsError, CycloptsError), match=message):
        _asked("--config", file, "--repository", "models")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PROT", "9000", "the environment holds UNFREEZE_PROT, which is no option"),
        ("PORT_8001_TCP", "tcp://10.0.0.1:8001", "`enableServiceLinks: false`"),
        ("PORT", "70000", r"--port goes from 0 to 65,535, found 70000 \(from UNFREEZE_PORT\)"),
        ("PORT", "many", 'UNFREEZE_PORT from env: unable to convert "many" into int'),
        ("CONFIG", "nowhere.toml", "--config nowhere.toml cannot be read: No such file"),
    ],
)
def test_what_is_wrong_in_the_environment_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    """Variables that are no options and values that are none of theirs are refused, by name."""
    monkeypatch.setenv(f"UNFREEZE_{name}", value)
    with pytest.raises((OptionsError, CycloptsError), match=message):
        _asked("--repository", "models")


@pytest.mark.parametrize(("content", "rest"), [("port = 70000", []), ("prot = 1", []), ("", ["--port", "70000"])])
def test_what_is_asked_wrongly_ends_with_two(file: Path, content: str, rest: list[str]) -> None:
    """The command tells it in one line on standard error, and ends with 2; of the command line it names no place."""
    file.write_text(content)
    command = [sys.executable, "-m", "unfreeze.command", "serve", "--repository", "models", "--config", str(file)]
    done = subprocess.run([*command, *rest], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert ("unfreeze.toml" in done.stderr) == (not rest)


def test_the_help_names_every_variable() -> None:
    """Each option of `unfreeze serve --help` stands beside its variable."""
    command = [sys.executable, "-m", "unfreeze.command", "serve", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    for name in (*ServeOptions.__dataclass_fields__, *LogOptions.__dataclass_fields__, "config"):
        assert f"--{name.replace('_', '-')}" in shown
        assert f"UNFREEZE_{name.upper()}" in shown, name


def test_other_commands_take_nothing_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable of the server's changes no prediction."""
    monkeypatch.setenv("UNFREEZE_TOP", "1")
    _, bound, _ = app.parse_args(["predict", "a.jpg", "--file", "m.onnx"], exit_on_error=False, print_error=False)
    assert "top" not in bound.arguments
