"""`unfreeze report`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from unfreeze.console import RESULTS, print_json

EXAMPLES = """Examples:

    unfreeze report run/
    unfreeze report run/ --open
"""
_FLAG = Parameter(negative="")


def report(
    run: Path,
    *,
    open: Annotated[bool, _FLAG] = False,
    json: Annotated[bool, _FLAG] = False,
) -> None:
    """Write the report of a run: report.html in its folder, one file that needs no network.

    It shows accuracy with its uncertainty, the accuracy of every depth, where the network fails, with images, whether
    its confidence can be believed, suspected label errors, and the data. `unfreeze tune` writes it too. The images are
    read again; those that were moved or deleted are left out. Needs unfreeze[report].

    Args:
        run: folder of a finished run.
        open: show the report in the browser.
        json: print the file's path and size as JSON to standard output.
    """
    from unfreeze.report.write import write_report

    path = write_report(run)
    if json:
        print_json({"report": str(path), "bytes": path.stat().st_size})
    else:
        RESULTS.print(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB)", markup=False)
    if open:
        import webbrowser

        webbrowser.open(path.absolute().as_uri())
