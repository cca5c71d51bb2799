"""The `unfreeze` command."""

import sys
from importlib.metadata import version

from cyclopts import App

from unfreeze.commands import bench, demo, export, info, plan, predict, serve, tune, verify
from unfreeze.console import REMARKS
from unfreeze.contract.errors import OptionsError, UnfreezeError

_ASKED_WRONGLY, _INTERRUPTED = 2, 130

app = App(
    name="unfreeze",
    help="From a folder of labeled images to a classifier that answers over gRPC: tune, export, serve, predict.",
    version=lambda: version("unfreeze"),
    suppress_keyboard_interrupt=False,
)
for _module in (plan, tune, export, info, verify, bench, serve, predict, demo):
    _name = _module.__name__.rpartition(".")[2]
    _config = getattr(_module, "CONFIG", None)
    app.command(getattr(_module, _name), name=_name, help_epilogue=_module.EXAMPLES, config=_config)


def main() -> None:
    """Run the command line: exits with 0 when all was done, 1 when it could not be, 2 when an option was wrong."""
    try:
        app()
    except OptionsError as error:
        _fail(str(error), _ASKED_WRONGLY)
    except UnfreezeError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.strerror or error}: {error.filename}" if error.filename else str(error))
    except ModuleNotFoundError as error:
        _fail(f"{error}; this command needs an extra: {_extra(error.name or '')}")
    except KeyboardInterrupt:
        REMARKS.print("interrupted")
        sys.exit(_INTERRUPTED)


def _fail(text: str, code: int = 1) -> None:
    REMARKS.print(f"error: {text}", markup=False)
    sys.exit(code)


def _extra(module: str) -> str:
    if module.partition(".")[0] == "onnxruntime":
        return "pip install 'unfreeze[cpu]', or 'unfreeze[gpu]' for an NVIDIA GPU"
    return "pip install 'unfreeze[tune,cpu]'"


if __name__ == "__main__":
    main()
