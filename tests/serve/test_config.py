"""Sources of a server's options: the command line, then environment variables, then a file."""

from pathlib import Path

import pytest
from cyclopts import CycloptsError
from support.cli import run_cli

from unfreeze.command import app
from unfreeze.contract.cache_folder import FOLDER_VARIABLE
from unfreeze.contract.errors import OptionsError
from unfreeze.serve.observability.logs import LogOptions
from unfreeze.serve.options import ServeOptions


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration file."""
    path = tmp_path / "unfreeze.toml"
    path.write_text('repository = "from-file"\nmax_batch = 3\nmax-queue = 5\nmetrics = false\nlog_format = "json"\n')
    return path


def _parse(*arguments: object) -> tuple[ServeOptions, LogOptions]:
    _, bound, _ = app.parse_args(["serve", *map(str, arguments)], exit_on_error=False, print_error=False)
    return bound.arguments["options"], bound.arguments.get("logs", LogOptions())


def test_reads_options_from_a_file(file: Path) -> None:
    """Names may have underscores or dashes; missing options have their defaults."""
    options, logs = _parse("--config", file)
    assert options == ServeOptions(repository=Path("from-file"), max_batch=3, max_queue=5, metrics=False)
    assert logs == LogOptions(log_format="json")


def test_options_that_may_be_given_several_times(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list in the file, text in the environment, and repeated on the command line."""
    file.write_text('repository = "models"\nsplit = ["a=1:2,2:3", "b=1:1"]\nshadow = "b=2:5"\n')
    expected = ServeOptions(repository=Path("models"), split=("a=1:2,2:3", "b=1:1"), shadow=("b=2:5",))
    assert _parse("--config", file)[0] == expected
    monkeypatch.setenv("UNFREEZE_SPLIT", "a=1:2,2:3 b=1:1")
    assert _parse("--repository", "models", "--shadow", "b=2:5")[0] == expected
    monkeypatch.delenv("UNFREEZE_SPLIT")
    given = ("--split", "a=1:2,2:3", "--split", "b=1:1", "--shadow", "b=2:5")
    assert _parse("--repository", "models", *given)[0] == expected


def test_environment_variables_override_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One variable overrides a value of the file, and another names the file."""
    for name, value in {"CONFIG": str(file), "MAX_BATCH": "7", "METRICS": "true", "LOG_LEVEL": "debug"}.items():
        monkeypatch.setenv(f"UNFREEZE_{name}", value)
    options, logs = _parse()
    assert options == ServeOptions(repository=Path("from-file"), max_batch=7, max_queue=5)
    assert logs == LogOptions(log_format="json", log_level="debug")


def test_the_command_line_overrides_both(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options that the command line does not give come from the environment or the file."""
    monkeypatch.setenv("UNFREEZE_MAX_BATCH", "7")
    monkeypatch.setenv("UNFREEZE_REPOSITORY", "from-environment")
    options, logs = _parse("--config", file, "--max-batch", 9, "--log-format", "human")
    assert options == ServeOptions(repository=Path("from-environment"), max_batch=9, max_queue=5, metrics=False)
    assert logs == LogOptions()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prot = 9000", "'prot' is not an option of `unfreeze serve`; use top-level keys"),
        ("[serve]\nport = 9000", "'serve' is not an option of `unfreeze serve`; use top-level keys"),
        ("tune = 1", "'tune' is not an option"),
        ('config = "other.toml"', "'config' is not an option"),
        ("port = [1, 2]", "'port' is not an option"),
        ("port = 70000", r"--port must be between 0 and 65,535, got 70000 \(from \[port\] of .*unfreeze.toml\)"),
        ('port = "many"', r'\[port\] from .*unfreeze.toml: unable to convert "many" into int'),
        ('log_level = "loud"', r"\[log_level\] from .*unfreeze.toml. Choose from: "),
        ("port = ", "unfreeze.toml is not valid TOML: Invalid value"),
    ],
)
def test_rejects_errors_in_the_file(file: Path, content: str, message: str) -> None:
    """Unknown keys and invalid values are errors that name the file and the key."""
    file.write_text(content)
    with pytest.raises((OptionsError, CycloptsError), match=message):
        _parse("--config", file, "--repository", "models")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PROT", "9000", "environment variable UNFREEZE_PROT is not an option"),
        ("PORT_8001_TCP", "tcp://10.0.0.1:8001", "`enableServiceLinks: false`"),
        ("PORT", "70000", r"--port must be between 0 and 65,535, got 70000 \(from UNFREEZE_PORT\)"),
        ("PORT", "many", 'UNFREEZE_PORT from env: unable to convert "many" into int'),
        ("CONFIG", "nowhere.toml", "--config nowhere.toml cannot be read: No such file"),
    ],
)
def test_rejects_errors_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    """Unknown variables and invalid values are errors that name the variable."""
    monkeypatch.setenv(f"UNFREEZE_{name}", value)
    with pytest.raises((OptionsError, CycloptsError), match=message):
        _parse("--repository", "models")


@pytest.mark.parametrize(("content", "rest"), [("port = 70000", []), ("prot = 1", []), ("", ["--port", "70000"])])
def test_wrong_usage_is_reported_in_one_line(file: Path, content: str, rest: list[str]) -> None:
    """On standard error, with exit code 2; the file is named only if the wrong value comes from it."""
    file.write_text(content)
    done = run_cli("serve", "--repository", "models", "--config", file, *rest)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert ("unfreeze.toml" in done.stderr) == (not rest)


def test_help_lists_every_option_and_variable() -> None:
    """`unfreeze serve --help` names each option and its environment variable, in titled groups."""
    shown = run_cli("serve", "--help").stdout
    groups = (
        *("Models", "Network", "Execution", "Limits", "Security", "Monitoring", "Recording", "Logging"),
        "Configuration file",
    )
    titles = [line.split("─ ")[1].rstrip(" ─╮") for line in shown.splitlines() if line.startswith("╭")]
    assert titles == list(groups)
    for name in (*ServeOptions.__dataclass_fields__, *LogOptions.__dataclass_fields__, "config"):
        assert f"--{name.replace('_', '-')}" in shown
        assert f"UNFREEZE_{name.upper()}" in shown, name


def test_other_commands_ignore_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables set options of `unfreeze serve` only."""
    monkeypatch.setenv("UNFREEZE_TOP", "1")
    _, bound, _ = app.parse_args(["predict", "a.jpg", "--file", "m.onnx"], exit_on_error=False, print_error=False)
    assert "top" not in bound.arguments


def test_accepts_the_variable_of_the_feature_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It has the same prefix as the server's options, and is not a misspelled one."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    options, _ = _parse("--repository", "models")
    assert options == ServeOptions(repository=Path("models"))
