"""The command `unfreeze pull`."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

_FLAG = Parameter(negative="")

EXAMPLES = """Examples:

    unfreeze pull https://example.org/models/flowers --into models/flowers
    unfreeze pull /mnt/usb/flowers --into models/flowers --public-key public.pem
    unfreeze pull s3://bucket/models/flowers --into models/flowers --channel canary --json
"""


def pull(
    source: str,
    *,
    into: Path,
    public_key: Path | None = None,
    channel: str | None = None,
    allow_downgrade: Annotated[bool, _FLAG] = False,
    retry_bad: Annotated[bool, _FLAG] = False,
    json: Annotated[bool, _FLAG] = False,
) -> None:
    """Take a new version of a model, if there is one; the program that `unfreeze bundle` packs for devices.

    The version is received so that an interruption costs nothing, checked against SHA256SUMS and its signature, tried
    with its golden images on this device, and brought into use by a rename. The version before it stays, older ones are
    deleted. After a failure the old version is still in use, and the exit code is 1; a version that was refused is
    remembered and not received again.

    Args:
        source: the model's folder, as `unfreeze export` writes it: a path, a URL of a web server that serves files, or
            a URL that fsspec reads. A web server needs the channel's file, because it cannot be listed.
        into: the model's folder on this device; created if missing. Versions but the last two are deleted in it.
        public_key: PEM file of the key that a version must be signed with; needs the package cryptography.
        channel: name of a file in SOURCE that contains the number of the version to take; by default "stable", or the
            newest version where there is none and SOURCE can be listed.
        allow_downgrade: take an older version than the one in use, if the channel names it.
        retry_bad: try a version again that was refused before.
        json: print the result as JSON to standard output.
    """
    from unfreeze.device.pull import run_pull
    from unfreeze.device.update import PullOptions

    options = PullOptions(
        source=source,
        into=into,
        public_key=public_key,
        channel=channel,
        allow_downgrade=allow_downgrade,
        retry_bad=retry_bad,
    )
    if code := run_pull(options, json=json):
        sys.exit(code)
