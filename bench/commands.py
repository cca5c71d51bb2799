"""Generate `docs/cli.md`, the reference of all commands, from their help.

python -m bench.commands           # writes it
python -m bench.commands --check   # exits with 1 if it is outdated
"""

import sys
from pathlib import Path

from unfreeze.command import app

_FILE = Path(__file__).parents[1] / "docs" / "cli.md"
_INTRODUCTION = """# Commands

Generated from the commands' help; `unfreeze COMMAND --help` prints the same with examples.
Exit codes: 0 success, 1 failure, 2 invalid option, 130 interrupted.
"""


def reference() -> str:
    """Render the help of every command as Markdown."""
    sys.argv[0] = "unfreeze"  # the usage lines start with it
    sys.orig_argv[:] = ["unfreeze"]
    pages = app.generate_docs(output_format="markdown", heading_level=1)
    _, _, commands = pages.partition("\n## unfreeze ")
    text = f"{_INTRODUCTION}\n## unfreeze {commands}"
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def main() -> None:
    """Write the file, or compare it."""
    if "--check" not in sys.argv:
        _FILE.write_text(reference())
    elif not _FILE.is_file() or _FILE.read_text() != reference():
        sys.exit(f"{_FILE.name} is not current: run python -m bench.commands")


if __name__ == "__main__":
    main()
