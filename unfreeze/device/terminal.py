"""Output and exit of the device's programs, without a library for terminals."""

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from unfreeze.contract.errors import OptionsError, UnfreezeError
from unfreeze.contract.json_text import json_text

SUCCESS, FAILURE, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130


def say(text: str) -> None:
    """Write a remark to standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def write_json_line(document: Mapping[str, Any]) -> None:
    """Write a document as one line of JSON to standard output, at once: a reader may wait for it.

    Characters outside of ASCII are escaped, because a device's locale may not be able to write them.
    """
    sys.stdout.write(f"{json.dumps(json.loads(json_text(document)))}\n")
    sys.stdout.flush()


def exit_code(program: Callable[[], int]) -> int:
    """Run a program, and turn the errors that it raises on purpose into one line and an exit code.

    Args:
        program: returns an exit code.
    """
    try:
        return program()
    except OptionsError as error:
        say(f"error: {error}")
        return WRONG_USAGE
    except UnfreezeError as error:
        say(f"error: {error}")
    except ModuleNotFoundError as error:
        say(f"error: the package {error.name} is not installed: pip install --no-deps -r requirements.txt")
    except BrokenPipeError:  # the reader of standard output has gone
        sys.stdout = None  # or the interpreter would fail to flush it
    except OSError as error:
        say(f"error: {error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    return FAILURE
