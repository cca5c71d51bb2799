"""`unfreeze serve`."""

import asyncio
import logging
import os
import re
import sys
import tomllib
from pathlib import Path
from typing import Annotated

from cyclopts import App, ArgumentCollection, CycloptsError, Parameter
from cyclopts.config import Dict, Env

from unfreeze.console import RESULTS
from unfreeze.contract.errors import OptionsError
from unfreeze.serve.observability.logs import LogOptions, start_logging
from unfreeze.serve.options import ServeOptions

EXAMPLES = """Examples:

    unfreeze serve --repository models/
    unfreeze serve --repository models/ --port 9000 --max-batch 16 --max-delay-ms 2
    UNFREEZE_LOG_FORMAT=json unfreeze serve --config unfreeze.toml
"""
_PREFIX = "UNFREEZE_"


def serve(
    options: Annotated[ServeOptions, Parameter(name="*")],
    logs: Annotated[LogOptions | None, Parameter(name="*")] = None,
    *,
    config: Path | None = None,  # noqa: ARG001 - read before, by `_read_file`
) -> None:
    """Serve every model of a repository over gRPC until SIGTERM or Ctrl-C, then finish what is in flight.

    It speaks the Open Inference Protocol (models NAME and NAME.encoded), unfreeze.v1.Classifier, gRPC health and
    reflection. Prints one line once it answers. An option that is not given here is taken from the environment, then
    from the file that --config names.

    Args:
        options: what to serve, and how.
        logs: what is logged, and how.
        config: TOML file of options, such as `max_batch = 16`.
    """
    from unfreeze.serve.models.registry import is_loading
    from unfreeze.serve.server import Server
    from unfreeze.serve.server import serve as run_serve

    start_logging(logs or LogOptions())

    def ready(server: Server) -> None:
        RESULTS.print(f"serving {options.repository} on {options.host}:{server.port}", markup=False)

    asyncio.run(run_serve(options, ready))
    if is_loading():  # a runtime that is at work while its libraries are taken down aborts the process
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)


def _check_environment(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuse a variable of ours that is no option: it would be one that somebody misspelt."""
    known = {_PREFIX + name.replace("-", "_").upper() for name in _names(arguments)}
    for name in sorted(os.environ):
        if name.startswith(_PREFIX) and name not in known:
            raise OptionsError(
                f"the environment holds {name}, which is no option of `unfreeze serve`; correct or remove it (in "
                "Kubernetes, `enableServiceLinks: false` keeps services' names out of the environment)"
            )


def _read_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Take options from the file that --config names, where nothing before it gave them."""
    tokens = arguments.match("--config")[0].tokens
    if not tokens:
        return
    path = Path(tokens[-1].value)
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise OptionsError(f"--config {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise OptionsError(f"--config {path} is no TOML: {error}") from None
    for name, value in document.items():
        if name.replace("_", "-") not in _names(arguments) - {"config"} or isinstance(value, dict | list):
            raise OptionsError(
                f"--config {path} holds {name!r}, which is no option of `unfreeze serve`; options stand at its top, "
                "such as `max_batch = 16`"
            )
    Dict(data=document, source=str(path), use_commands_as_keys=False)(app, commands, arguments)


def _name_places(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Say of a value that is refused where it was found, if that was not the command line."""
    (options,) = [argument for argument in arguments if argument.hint is ServeOptions]
    try:
        options.convert_and_validate()
    except CycloptsError:
        return  # it is told when all arguments are bound
    except OptionsError as error:
        places = {
            token.keyword if token.source == "env" else f"{token.keyword} of {token.source}"
            for argument in arguments
            for token in argument.tokens
            if token.source != "cli" and re.search(rf"{argument.name}(?![\w-])", str(error))
        }
        raise OptionsError(f"{error} (from {', '.join(sorted(places))})" if places else str(error)) from None


def _names(arguments: ArgumentCollection) -> set[str]:
    return {argument.name.removeprefix("--") for argument in arguments}


CONFIG = (_check_environment, Env(_PREFIX, command=False), _read_file, _name_places)
