"""Review what a server has recorded: read it, merge the dataset, show the page, and say what came out."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unfreeze.contract.errors import OptionsError
from unfreeze.review.decisions import locked
from unfreeze.review.recorded import read_recording
from unfreeze.review.session import Session


@dataclass(frozen=True, kw_only=True)
class ReviewOptions:
    """Options of a review.

    Args:
        model: whose images are reviewed; needed if there are several.
        merge: dataset whose images are linked beside the reviewed ones; None for none.
        host: loopback address of the page.
        port: of the page; 0 for any free one.
    """

    model: str | None = None
    merge: Path | None = None
    host: str = "127.0.0.1"
    port: int = 0


def review(root: Path, out: Path, options: ReviewOptions, ready: Callable[[str], None] | None) -> dict[str, Any]:
    """Review recorded images.

    Args:
        root: folder of `unfreeze serve --record`.
        out: the labeled folder.
        options: options of the review.
        ready: called with the address of the page when it can be opened; None shows no page.

    Returns:
        A summary.

    Raises:
        UnfreezeError: there are no images, another process reviews them, or the address is not available.
        OptionsError: the labeled folder is inside of the recorded one, or a label cannot be the name of a folder.
    """
    if out.resolve().is_relative_to(root.resolve()) or root.resolve().is_relative_to(out.resolve()):
        raise OptionsError(
            f"--out {out} and {root} must not lie in each other, because recorded images are deleted later"
        )
    recording = read_recording(root, options.model)
    with locked(recording.folder):
        merged = None
        if options.merge is not None:
            from unfreeze.review.merge import merge

            merged = merge(options.merge, out)
        session = Session(recording, out)
        if ready is not None:
            from unfreeze.review.page_server import serve_page

            serve_page(session, options.host, options.port, ready)
    summary = session.summary()
    return asdict(summary) | {
        "model": recording.model,
        "labeled": summary.labeled,
        "out": str(out),
        "merged": merged,
        "unusable": sorted([*recording.problems, *(f"{key}: {why}" for key, why in session.unusable().items())]),
    }
