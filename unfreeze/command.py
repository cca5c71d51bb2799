"""The `unfreeze` command."""

import sys
from importlib.metadata import version

from cyclopts import App

from contract.errors import UnfreezeError
from unfreeze.console import REMARKS

_INTERRUPTED = 130

app = App(
    name="unfreeze",
    help="From a folder of labelled pictures to a classifier that answers over gRPC: tune, export, serve, predict.",
    version=lambda: version("unfreeze"),
)
for _name in ("tune", "export", "serve", "predict", "demo"):
    app.command(f"unfreeze.commands.{_name}:{_name}", name=_name)


def main() -> None:
    """Run the command line: exit code 0 when it did what was asked, 1 when it could not, 2 when it was asked wrongly."""
    try:
        app()
    except UnfreezeError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        _fail(f"{error}; this command needs an extra: {_extra(error.name or '')}")
    except KeyboardInterrupt:
        REMARKS.print("interrupted")
        sys.exit(_INTERRUPTED)


def _fail(text: str) -> None:
    REMARKS.print(f"error: {text}", markup=False)
    sys.exit(1)


def _extra(module: str) -> str:
    if module.partition(".")[0] == "onnxruntime":
        return "pip install 'unfreeze[cpu]', or 'unfreeze[gpu]' for an NVIDIA GPU"
    return "pip install 'unfreeze[tune,cpu]'"


if __name__ == "__main__":
    main()
