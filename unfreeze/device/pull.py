"""`pull`: take a new version of a model from a folder, a web server or a bucket.

python -m unfreeze.device.pull https://example.org/models/flowers --into models/flowers
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unfreeze.contract.errors import OptionsError, UnfreezeError
from unfreeze.device.terminal import FAILURE, SUCCESS, exit_code, say, write_json_line
from unfreeze.device.update import PullOptions, pull
from unfreeze.device.versions import version_files


def run_pull(options: PullOptions, *, json: bool) -> int:
    """Pull, and write what was done: one line.

    Args:
        options: of the pull.
        json: write a document to standard output, also after a failure, instead of a sentence.

    Returns:
        The exit code: 0 if the version in use is the one that was offered, 1 if not.

    Raises:
        OptionsError: an option is out of its range.
    """
    try:
        done = pull(options)
    except OptionsError as error:
        if json:
            write_json_line({"installed": False, **_in_use(options.into), "error": str(error)})
        raise
    except (UnfreezeError, OSError) as error:
        if json:
            write_json_line({"installed": False, **_in_use(options.into), "error": str(error)})
        say(f"error: {error}")
        return FAILURE
    if json:
        write_json_line(dataclasses.asdict(done) | {"error": None})
    elif done.installed:
        resumed = f", {done.resumed / 1e6:.1f} MB were there" if done.resumed else ""
        say(f"version {done.version} is in use now ({done.bytes / 1e6:.1f} MB received{resumed})")
    else:
        say(f"version {done.version} is in use, and there is no newer one")
    return SUCCESS


def main(arguments: Sequence[str] | None = None, into: Path | None = None, public_key: Path | None = None) -> int:
    """Run the command line.

    Args:
        arguments: those after the program's name; by default those of this process.
        into: default of `--into`; without one, the option is required.
        public_key: default of `--public-key`.

    Returns:
        The exit code: 0 success, 1 failure, 2 wrong usage, 130 interrupted.
    """
    given = vars(_parser(into, public_key).parse_args(arguments))
    json = given.pop("json")
    return exit_code(lambda: run_pull(PullOptions(**given), json=json))


def _in_use(folder: Path) -> dict[str, Any]:
    """Say which version goes on answering."""
    try:
        return {"version": version_files(folder)[0].number}
    except (UnfreezeError, OSError):
        return {"version": None}


def _parser(into: Path | None, public_key: Path | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pull", description="Take a new version of a model.")
    add = parser.add_argument
    add("source", help="the model's folder: a path, https://..., or another URL that fsspec reads")
    add("--into", type=Path, default=into, required=into is None, help="the model's folder on this device")
    add("--public-key", type=Path, default=public_key, help="take only versions that are signed with this key (PEM)")
    add("--channel", help="file in SOURCE that names the version (stable; the newest if SOURCE is listed and has none)")
    add("--allow-downgrade", action="store_true", help="take an older version, if the channel names it")
    add("--retry-bad", action="store_true", help="try a version again that was refused before")
    add("--json", action="store_true", help="write the result as JSON to standard output")
    return parser


if __name__ == "__main__":
    sys.exit(main())
