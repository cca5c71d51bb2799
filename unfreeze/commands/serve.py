"""The command `unfreeze serve`."""

import asyncio
import logging
import os
import re
import sys
import tomllib
from pathlib import Path
from typing import Annotated

from cyclopts import App, ArgumentCollection, CycloptsError, Group, Parameter
from cyclopts.config import Dict, Env

from unfreeze.console import RESULTS
from unfreeze.contract.errors import OptionsError
from unfreeze.serve.observability.logs import LogOptions, start_logging
from unfreeze.serve.options import ServeOptions

EXAMPLES = """Examples:

    unfreeze serve --repository models/
    unfreeze serve --repository models/ --http 8080
    unfreeze serve --repository models/ --port 9000 --max-batch 16 --max-delay-ms 2
    unfreeze serve --repository models/ --split flowers=3:95,4:5 --shadow flowers=4:10
    unfreeze serve --repository models/ --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem --token-file tokens.txt
    unfreeze serve --repository models/ --uds /run/unfreeze/grpc.sock --uds-only --token-file tokens.txt
    UNFREEZE_LOG_FORMAT=json unfreeze serve --config unfreeze.toml
"""
_ENV_PREFIX = "UNFREEZE_"
_OTHER_VARIABLES = {"UNFREEZE_CACHE_DIR"}  # of other commands
_REPEATABLE = {"split", "shadow"}
_LOGGING = Group.create_ordered("Logging")
_CONFIGURATION = Group.create_ordered("Configuration file")


def serve(
    options: Annotated[ServeOptions, Parameter(name="*")],
    logs: Annotated[LogOptions | None, Parameter(name="*", group=_LOGGING)] = None,
    *,
    config: Annotated[Path | None, Parameter(group=_CONFIGURATION)] = None,  # noqa: ARG001 - read by `_apply_config_file`
) -> None:
    """Serve the models of a repository over gRPC until SIGTERM or Ctrl-C, then finish the accepted requests.

    The server implements the Open Inference Protocol (models NAME and NAME.encoded), unfreeze.v1.Classifier, gRPC
    health checking and server reflection. With --http it also answers over HTTP, and shows a page to try the models.
    When it accepts calls, it prints "serving REPOSITORY on HOST:PORT" to standard output, and with --uds the address
    unix:///PATH. Options are read from the command line, then from environment variables, then from the file given by
    --config.

    Args:
        options: what to serve, and how.
        logs: format and level of the log on standard error.
        config: TOML file of options, such as `max_batch = 16`.
    """
    from unfreeze.serve.models.load_thread import is_loading
    from unfreeze.serve.run import Running
    from unfreeze.serve.run import serve as run_server

    start_logging(logs or LogOptions())

    def print_address(server: Running) -> None:
        addresses = [] if options.uds_only else [f"{options.host}:{server.port}"]
        addresses += [] if options.unix_socket is None else [options.unix_socket.target]
        RESULTS.print(f"serving {options.repository} on {addresses[0]}", markup=False)
        for address in addresses[1:]:
            RESULTS.print(f"also on {address}", markup=False)
        if server.http_address is not None:
            RESULTS.print(f"page to try the models: {server.http_address}", markup=False)

    asyncio.run(run_server(options, print_address, logs or LogOptions()))
    if is_loading():  # unloading a runtime's libraries while it is loading a model would abort the process
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)


def _check_environment(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Reject unknown variables with our prefix, which are probably misspelled."""
    known = _OTHER_VARIABLES | {_ENV_PREFIX + name.replace("-", "_").upper() for name in _names(arguments)}
    for name in sorted(os.environ):
        if name.startswith(_ENV_PREFIX) and name not in known:
            raise OptionsError(
                f"environment variable {name} is not an option of `unfreeze serve`; correct or unset it (in Kubernetes "
                "set `enableServiceLinks: false`, which keeps the names of services out of the environment)"
            )


def _apply_config_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Set the options that the command line and the environment leave open to the values in the --config file."""
    tokens = arguments.match("--config")[0].tokens
    if not tokens:
        return
    path = Path(tokens[-1].value)
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise OptionsError(f"--config {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise OptionsError(f"--config {path} is not valid TOML: {error}") from None
    for name, value in document.items():
        is_nested = isinstance(value, dict) or (isinstance(value, list) and name not in _REPEATABLE)
        if name.replace("_", "-") not in _names(arguments) - {"config"} or is_nested:
            raise OptionsError(
                f"--config {path}: {name!r} is not an option of `unfreeze serve`; use top-level keys such as "
                "`max_batch = 16`"
            )
    Dict(data=document, source=str(path), use_commands_as_keys=False)(app, commands, arguments)


def _name_sources(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Add the variable or the file that an invalid value comes from to the error message."""
    (options,) = [argument for argument in arguments if argument.hint is ServeOptions]
    try:
        options.convert_and_validate()
    except CycloptsError:
        return  # reported later, when all arguments are bound
    except OptionsError as error:
        sources = {
            token.keyword if token.source == "env" else f"{token.keyword} of {token.source}"
            for argument in arguments
            for token in argument.tokens
            if token.source != "cli" and re.search(rf"{argument.name}(?![\w-])", str(error))
        }
        text = ", ".join(sorted(source for source in sources if source))
        raise OptionsError(f"{error} (from {text})" if text else str(error)) from None


def _names(arguments: ArgumentCollection) -> set[str]:
    return {argument.name.removeprefix("--") for argument in arguments}


CONFIG = (_check_environment, Env(_ENV_PREFIX, command=False), _apply_config_file, _name_sources)
