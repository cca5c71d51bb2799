"""`unfreeze report`."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from unfreeze.console import RESULTS, TerminalReporter, print_json

EXAMPLES = """Examples:

    unfreeze report run/
    unfreeze report run/ --open
    unfreeze report run/ --map tsne
"""
_FLAG = Parameter(negative="")


def report(
    run: Path,
    *,
    map: Literal["pca", "tsne"] = "pca",
    open: Annotated[bool, _FLAG] = False,
    json: Annotated[bool, _FLAG] = False,
) -> None:
    """Write the report of a run: report.html in its folder, one file that needs no network.

    It shows accuracy with its uncertainty, the accuracy of every depth, where the network fails and where it looked,
    whether its confidence can be believed, suspected label errors, a map of the images, the data and a model card.
    `unfreeze tune` writes it too. The images are read again; those that were moved or deleted are left out. Needs
    unfreeze[report].

    Args:
        run: folder of a finished run.
        map: how the images are mapped to a plane: their two largest principal components, or t-SNE, which shows groups
            better and takes about a minute for 10,000 images.
        open: show the report in the browser.
        json: print the file's path and size as JSON to standard output.
    """
    from unfreeze.report.write import write_report

    with TerminalReporter() as reporter:
        path = write_report(run, map, reporter)
    if json:
        print_json({"report": str(path), "bytes": path.stat().st_size})
    else:
        RESULTS.print(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB)", markup=False)
    if open:
        import webbrowser

        webbrowser.open(path.absolute().as_uri())
