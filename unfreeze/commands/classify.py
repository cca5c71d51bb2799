"""The command `unfreeze classify`."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

_FLAG = Parameter(negative="")

EXAMPLES = """Examples:

    unfreeze classify leaf.jpg --model models/flowers
    unfreeze classify --watch inbox/ --model models/flowers --follow
    unfreeze classify --camera 0 --every 0.5 --model model.onnx --top-k 1
"""


def classify(
    *images: Path,
    model: Path,
    watch: Path | None = None,
    existing: Annotated[bool, _FLAG] = False,
    camera: str = "",
    every: float = 1.0,
    top_k: int = 5,
    follow: Annotated[bool, _FLAG] = False,
    threads: int = 0,
    cache: bool = True,
) -> None:
    """Classify images, the new files of a folder or a camera's frames, and write one line of JSON for each.

    The same program runs on a device without this package's other libraries; `unfreeze bundle` packs it. An image that
    cannot be classified is a line with its error.

    Args:
        images: image files.
        model: a `model.onnx`, the folder of a version, or the folder of a model, for the version in use.
        watch: FOLDER whose new files are classified, each once, when it is completely written.
        existing: with --watch, also the files that are there at the beginning.
        camera: number of a camera, or a path or URL of a video; needs unfreeze[camera].
        every: seconds between two frames of the camera; 0 for every frame.
        top_k: number of labels in each line.
        follow: take a new version of the model without a restart. One that does not load or fails its golden images is
            refused, and the old one stays.
        threads: CPU threads; 0 for one per core.
        cache: save the optimized graph next to the model, and use it at the next start.
    """
    from unfreeze.device.classify import ClassifyOptions
    from unfreeze.device.classify import classify as run_classify

    options = ClassifyOptions(
        model=model,
        images=images,
        watch=watch,
        existing=existing,
        camera=camera,
        every=every,
        top_k=top_k,
        follow=follow,
        threads=threads,
        cache=cache,
    )
    if code := run_classify(options):
        sys.exit(code)
