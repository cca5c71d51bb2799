"""Models on 64-bit ARM, executed: an arm64 Debian under emulation, its wheels, and answers compared with this machine.

python -m bench.edge photographs/ --weights squeezenet1_0.pth --backbone squeezenet1_0
python -m bench.edge photographs/ --into edge --images 20

A network is tuned on the images and exported in fp32, fp16 and int8 for ARM. In the arm64 system, with the aarch64
wheels of numpy, Pillow and ONNX Runtime alone, each file is verified by its golden images and classifies the validation
images. QEMU writes down which instructions run. It needs root and Debian or Ubuntu, and installs Debian's packages
debootstrap and qemu-user-static if they are missing. Emulated speed says nothing about a device and is not shown.
"""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import cyclopts
from rich.table import Table

from bench.edge.kernels import ENCODINGS
from bench.edge.measure import BundleRun, Compared, compare, kernels, put, run_bundle
from bench.edge.models import publish_precisions
from bench.edge.processors import PROCESSORS
from bench.edge.system import find_tools, make_system, wheels_exist
from unfreeze.console import REMARKS, RESULTS, TerminalReporter, print_json
from unfreeze.tune.artifacts.checkpoint import load_run


def main(
    data: Path,
    *,
    weights: str = "builtin",
    backbone: str = "mobilenet_v3_small",
    into: Path = Path("edge"),
    images: int = 0,
    mirror: str | None = None,
    json: Annotated[bool, cyclopts.Parameter(negative="")] = False,
) -> None:
    """Make the system, and show what the models do on it.

    Args:
        data: folder of labeled images.
        weights: pretrained weights, as for `unfreeze tune`.
        backbone: of the network.
        into: folder for the system, the run and the models, which another call with the same folder uses again.
        images: number of validation images to compare; 0 for all.
        mirror: URL of a Debian mirror; that of this machine's apt by default.
        json: print JSON instead of tables.
    """
    find_tools()
    with TerminalReporter() as reporter:
        files = publish_precisions(data, into, backbone, weights, reporter)
        REMARKS.print("the arm64 system is made (a minute, once)")
        system = make_system(into.absolute(), mirror)
    _, facts = load_run(next(into.glob(f"run-{backbone.replace('/', '-')}")))
    validation = [image.path for image in facts.images(data)]
    put(system, files.values(), validation[: images or None])
    compared = compare(system, list(files.values()))
    bundle = run_bundle(system, files["fp32"])
    found = {
        (precision, one.name): kernels(system, file, one) for precision, file in files.items() for one in PROCESSORS
    }
    wheels = {machine: wheels_exist(machine) for machine in ("aarch64", "armv7l")}
    if json:
        rows = [{"precision": key[0], "processor": key[1], **counts} for key, counts in found.items()]
        print_json(
            {"models": [asdict(one) for one in compared], "bundle": asdict(bundle), "kernels": rows, "wheels": wheels}
        )
        return
    RESULTS.print(_models_table(compared), _bundle_table(bundle), _kernels_table(found), _wheels_table(wheels))


def _models_table(compared: list[Compared]) -> Table:
    table = Table("model", "golden images", "same label", "largest difference", "memory, MB", title="arm64 against x86")
    for one in compared:
        golden = f"{one.golden} pass ({one.golden_difference:.1g} of {one.golden_tolerance:g})"
        label = f"{one.same_label} of {one.images}"
        if one.changed_label_margin:
            label += f" (others within {one.changed_label_margin:.2g})"
        table.add_row(one.model, golden, label, f"{one.largest_difference:.2g}", f"{one.peak_mb:.0f}")
    return table


def _bundle_table(run: BundleRun) -> Table:
    table = Table("bundle of", "wheels, MB", "with wheels, MB", "installed, MB", "same answer", "memory, MB")
    sizes = f"{run.wheels_mb:.1f}", f"{run.bundle_mb:.1f}", f"{run.installed_mb:.0f}"
    table.add_row(run.model, *sizes, "yes" if run.same_answer else "NO", f"{run.peak_mb:.0f}")
    return table


def _kernels_table(found: dict[tuple[str, str], Counter[str]]) -> Table:
    columns = tuple(ENCODINGS)
    table = Table("precision", "processor", *columns, title="distinct vector instructions that ONNX Runtime executes")
    for (precision, processor), counts in found.items():
        table.add_row(precision, processor, *(f"{counts[column]:,}" for column in columns))
    return table


def _wheels_table(wheels: dict[str, dict[str, bool]]) -> Table:
    libraries = list(next(iter(wheels.values())))
    table = Table("machine", *libraries, title="wheels in the package index")
    for machine, found in wheels.items():
        table.add_row(machine, *("yes" if found[library] else "no" for library in libraries))
    return table


if __name__ == "__main__":
    cyclopts.run(main)
