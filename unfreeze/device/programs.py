"""Start a program of a bundle by its name."""

from collections.abc import Sequence
from pathlib import Path

from unfreeze.device.terminal import SUCCESS, WRONG_USAGE, say

_USAGE = "usage: classify|pull ...; `classify --help` and `pull --help` list the options"


def run(arguments: Sequence[str], *, model: Path, public_key: Path) -> int:
    """Run `classify` or `pull`.

    Args:
        arguments: name of the program, then its arguments.
        model: folder of the bundle's model: default of `classify --model` and `pull --into`.
        public_key: default of `pull --public-key`, if this file exists.

    Returns:
        The exit code.
    """
    program, *rest = arguments or ["--help"]
    if program == "classify":
        from unfreeze.device import classify

        return classify.main(rest, model=model)
    if program == "pull":
        from unfreeze.device import pull

        return pull.main(rest, into=model, public_key=public_key if public_key.is_file() else None)
    say(_USAGE)
    return SUCCESS if program in ("-h", "--help") else WRONG_USAGE
