"""The command `unfreeze bundle`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from unfreeze.console import RESULTS, print_json

_FLAG = Parameter(negative="")

EXAMPLES = """Examples:

    unfreeze bundle models/flowers --out app/
    unfreeze bundle models/flowers --out app/ --platform linux-aarch64 --with-wheels --python 3.12
    unfreeze bundle models/flowers --out app/ --public-key public.pem --source https://example.org/models/flowers
"""


def bundle(
    model: Path,
    *,
    out: Path,
    platform: Literal["any", "linux-aarch64", "linux-x86_64"] = "any",
    with_wheels: Annotated[bool, _FLAG] = False,
    python: str = "",
    public_key: Path | None = None,
    source: str = "",
    json: Annotated[bool, _FLAG] = False,
) -> None:
    """Write a folder for a device: the model, `classify` and `pull` with the modules that they import, and a README.

    The device needs Python and the three libraries of `requirements.txt`: numpy, Pillow and ONNX Runtime, in the
    versions that gave the golden answers here.

    Args:
        model: a `model.onnx`, the folder of a version, or the folder of a model, for the version in use.
        out: the folder to write, which must not exist.
        platform: of the device, for --with-wheels; "any" contains no binary.
        with_wheels: add the wheels of the libraries, which pip fetches, for a device without a network.
        python: version of Python on the device, such as 3.11, for the wheels; by default the one that is running.
        public_key: PEM file of the key that new versions must be signed with; adds the library cryptography.
        source: where the device takes new versions from, for the systemd unit of `pull`.
        json: print the result as JSON to standard output.
    """
    from unfreeze.device.bundle import BundleOptions, write_bundle

    options = BundleOptions(
        platform=platform, with_wheels=with_wheels, python=python, public_key=public_key, source=source
    )
    written = write_bundle(model, out, options)
    if json:
        print_json(dataclasses.asdict(written) | {"folder": str(written.folder)})
        return
    RESULTS.print(
        f"wrote {written.folder} ({written.bytes / 1e6:.1f} MB): {written.model} version {written.version}, "
        f"{written.modules} modules; the device needs {', '.join(written.requirements)}; see README.md in it",
        markup=False,
    )
