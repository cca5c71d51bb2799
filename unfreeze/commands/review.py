"""The command `unfreeze review`."""

import webbrowser
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from unfreeze.console import REMARKS, RESULTS, print_json
from unfreeze.contract.counted import counted

EXAMPLES = """Examples:

    unfreeze serve --repository models --record recorded
    unfreeze review recorded --open
    unfreeze review recorded --out labeled --merge images/
    unfreeze review recorded --json
"""
_FLAG = Parameter(negative="")


def review(
    recorded: Path,
    *,
    out: Path | None = None,
    model: str | None = None,
    merge: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    open: Annotated[bool, _FLAG] = False,
    json: Annotated[bool, _FLAG] = False,
) -> None:
    """Confirm or correct, on a local page, the labels of images that `unfreeze serve --record` has kept.

    Images from which the most is learned come first: those with the smallest margin between the two highest scores, no
    near copies one after the other. The page works by keyboard alone. Every decision is on disk at once; the labeled
    folder is what `unfreeze tune` takes. Ctrl-C ends the page, and a later call continues.

    Args:
        recorded: folder of `unfreeze serve --record`.
        out: the labeled folder; by default RECORDED-labeled. It gets hard links where that is possible, else
            copies.
        model: whose images are reviewed; needed if there are several models.
        merge: also link the images of this dataset into the labeled folder, so that one `unfreeze tune` sees both. Its
            validation images stay what they were; reviewed images are for training.
        host: address of the page, of this machine only.
        port: of the page; 0 for any free port.
        open: open the page in a browser.
        json: write the labeled folder, and print a summary as JSON, without a page.
    """
    from unfreeze.review.run import ReviewOptions
    from unfreeze.review.run import review as run_review

    def ready(address: str) -> None:
        RESULTS.print(f"review: {address}", markup=False)
        if open:
            webbrowser.open(address)

    target = recorded.resolve().with_name(f"{recorded.resolve().name}-labeled") if out is None else out
    options = ReviewOptions(model=model, merge=merge, host=host, port=port)
    summary = run_review(recorded, target, options, None if json else ready)
    if json:
        print_json(summary)
        return
    for problem in summary["unusable"]:
        REMARKS.print(f"not shown: {problem}", markup=False)
    for line in _lines(summary):
        RESULTS.print(line, markup=False)


def _lines(summary: dict[str, Any]) -> list[str]:
    agreed, none, left = (f"{summary[name]:,}" for name in ("agreed", "none", "left"))
    labeled = counted(summary["labeled"], "image")
    lines = [f"{labeled} labeled, {agreed} of them as the model had said; {none} of no class, {left} left"]
    if summary["merged"] is not None:
        splits = ", ".join(f"{count:,} {split}" for split, count in summary["merged"].items())
        lines.append(f"beside them, of the dataset: {splits}")
    return [*lines, f"next: unfreeze tune {summary['out']} --out RUN"]
