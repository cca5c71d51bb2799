"""The `unfreeze` command."""

import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from cyclopts import App

from unfreeze.commands import (
    bench,
    bundle,
    cache,
    classify,
    compare,
    demo,
    drift,
    export,
    features,
    info,
    plan,
    predict,
    pull,
    report,
    review,
    serve,
    traffic,
    tune,
    verify,
)
from unfreeze.console import REMARKS
from unfreeze.contract.errors import OptionsError, UnfreezeError
from unfreeze.pages.libraries import ADVICE

_FAILURE, _WRONG_USAGE, _INTERRUPTED = 1, 2, 130

app = App(
    name="unfreeze",
    help="From a folder of labeled images to a classifier served over gRPC: tune, export, serve, predict.",
    help_epilogue="Exit codes: 0 success, 1 failure, 2 wrong usage, 130 interrupted.",
    version=lambda: version("unfreeze"),
    suppress_keyboard_interrupt=False,
)
for _order, _module in enumerate(
    (
        plan,
        compare,
        features,
        tune,
        report,
        export,
        info,
        verify,
        bench,
        serve,
        traffic,
        predict,
        drift,
        review,
        classify,
        bundle,
        pull,
        demo,
        cache,
    )
):
    _name = _module.__name__.rpartition(".")[2]
    _config = getattr(_module, "CONFIG", None)
    app.command(getattr(_module, _name), name=_name, help_epilogue=_module.EXAMPLES, config=_config, sort_key=_order)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line.

    Results go to standard output; progress, logs and errors go to standard error. An error that we raise on purpose is
    one line without a traceback.

    Args:
        arguments: The arguments after `unfreeze`; by default those of this process.

    Raises:
        SystemExit: With code 0 on success, 1 on failure, 2 for wrong usage, 130 if interrupted.
    """
    try:
        app(sys.argv[1:] if arguments is None else arguments)
    except OptionsError as error:
        _exit(f"error: {error}", _WRONG_USAGE)
    except UnfreezeError as error:
        _exit(f"error: {error}", _FAILURE)
    except OSError as error:
        text = f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
        _exit(f"error: {text}", _FAILURE)
    except ModuleNotFoundError as error:
        extra = _extra_for(error.name or "")
        _exit(f"error: this command needs an extra: {extra} (the package {error.name} is not installed)", _FAILURE)
    except KeyboardInterrupt:
        _exit("interrupted", _INTERRUPTED)


def _exit(text: str, code: int) -> NoReturn:
    REMARKS.print(text, markup=False)
    sys.exit(code)


def _extra_for(module: str) -> str:
    """Return the command that installs a missing package."""
    if module.partition(".")[0] == "onnxruntime":
        return "pip install 'unfreeze[cpu]', or 'unfreeze[gpu]' for an NVIDIA GPU"
    if module.partition(".")[0] in ("jinja2", "markupsafe", "plotly"):
        return ADVICE
    if module.partition(".")[0] in ("starlette", "uvicorn"):
        return "pip install 'unfreeze[review]'"
    if module.partition(".")[0] in ("fsspec", "pyarrow"):
        return "pip install 'unfreeze[batch]'"
    return "pip install 'unfreeze[tune,cpu]'"


if __name__ == "__main__":
    main()
