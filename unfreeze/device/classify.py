"""`classify`: images, a watched folder or a camera to lines of JSON.

    python -m unfreeze.device.classify leaf.jpg --model models/flowers
    python -m unfreeze.device.classify --watch inbox/ --model models/flowers --follow

Each image is one line on standard output; remarks go to standard error.
"""

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from unfreeze.contract.errors import OptionsError
from unfreeze.contract.options import check_ranges
from unfreeze.contract.prediction import MOST_LABELS
from unfreeze.device.answers import Pixels, answer, file_pixels
from unfreeze.device.following import FollowedModel
from unfreeze.device.opening import load_usable
from unfreeze.device.terminal import FAILURE, INTERRUPTED, SUCCESS, exit_code, write_json_line
from unfreeze.device.watching import WatchedFolder

Item = tuple[str, Pixels] | None


@dataclass(frozen=True, kw_only=True)
class ClassifyOptions:
    """What `classify` does.

    Args:
        model: a `model.onnx`, the folder of a version, or the folder of a model.
        images: files to classify.
        watch: folder whose new files are classified.
        existing: with `watch`, also the files that are there at the beginning.
        camera: number of a camera, or a path or URL of a video; empty for none.
        every: seconds between two frames of the camera; 0 for every frame.
        top_k: number of labels in each line.
        follow: take a new version of the model without a restart.
        threads: CPU threads; 0 for one per core.
        cache: save the optimized graph next to the model, and use it.

    Raises:
        OptionsError: not exactly one of images, `watch` and `camera`, or a number is out of its range.
    """

    model: Path
    images: tuple[Path, ...] = ()
    watch: Path | None = None
    existing: bool = False
    camera: str = ""
    every: float = 1.0
    top_k: int = 5
    follow: bool = False
    threads: int = 0
    cache: bool = True

    def __post_init__(self) -> None:
        """Validate once, at construction."""
        if [bool(self.images), self.watch is not None, bool(self.camera)].count(True) != 1:
            raise OptionsError("give either IMAGES, --watch FOLDER or --camera N")
        if self.existing and self.watch is None:
            raise OptionsError("--existing says which files of --watch FOLDER are taken; give both of them")
        ranges = {"top_k": (1, MOST_LABELS), "threads": (0, 1024), "every": (0, 86_400)}
        check_ranges({name: getattr(self, name) for name in ranges}, ranges)


class _Stop:
    """Set by SIGINT and SIGTERM: the image that is being classified is finished first."""

    def __init__(self) -> None:
        self.signal = 0
        self._previous = {one: signal.signal(one, self._set) for one in (signal.SIGINT, signal.SIGTERM)}

    def __call__(self) -> bool:
        return self.signal != 0

    def restore(self) -> None:
        """Restore the handlers that were there before."""
        for one, handler in self._previous.items():
            signal.signal(one, handler)

    def _set(self, number: int, _: FrameType | None) -> None:
        self.signal = number


def classify(options: ClassifyOptions) -> int:
    """Classify images and write one line of JSON for each.

    Args:
        options: what to classify, and with which model.

    Returns:
        The exit code: of IMAGES 1 if one could not be classified, and 130 if interrupted; of a folder or a camera,
        which never end by themselves, 0 when stopped by SIGINT or SIGTERM.

    Raises:
        UnfreezeError: the model cannot be loaded, the folder does not exist, or the camera ended.
    """
    loaded = load_usable(options.model, threads=options.threads, cache=options.cache)
    stop = _Stop()
    failed = 0
    with ExitStack() as stack:
        stack.callback(stop.restore)
        followed = FollowedModel(options.model, loaded, threads=options.threads, cache=options.cache)
        for item in _items(options, stop, stack):
            if options.follow:
                loaded = followed.refresh()
            if item is not None:
                line = answer(*item, loaded, options.top_k)
                failed += line["error"] is not None
                write_json_line(line)
            if stop():
                break
    if not options.images:
        return SUCCESS
    return INTERRUPTED if stop() else FAILURE if failed else SUCCESS


def _items(options: ClassifyOptions, stop: _Stop, stack: ExitStack) -> Iterator[Item]:
    """Yield the images; None while there is none."""
    if options.watch is not None:
        watched = stack.enter_context(WatchedFolder(options.watch, existing=options.existing))
        return (None if path is None else (str(path), file_pixels(path)) for path in watched.new_files(stop))
    if options.camera:
        from unfreeze.device.camera import frames

        return iter(frames(options.camera, options.every))
    return ((str(path), file_pixels(path)) for path in options.images)


def main(arguments: Sequence[str] | None = None, model: Path | None = None) -> int:
    """Run the command line.

    Args:
        arguments: those after the program's name; by default those of this process.
        model: default of `--model`; without one, the option is required.

    Returns:
        The exit code: 0 success, 1 failure, 2 wrong usage, 130 interrupted.
    """
    given = vars(_parser(model).parse_args(arguments))
    return exit_code(lambda: classify(ClassifyOptions(**given | {"images": tuple(given["images"])})))


def _parser(model: Path | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="classify", description="Classify images; writes one line of JSON for each to standard output."
    )
    add = parser.add_argument
    add("images", nargs="*", type=Path, metavar="IMAGES", help="image files")
    add("--model", type=Path, default=model, required=model is None, help="model.onnx, or the folder of a model")
    add("--watch", type=Path, metavar="FOLDER", help="classify each new file of a folder when it is complete")
    add("--existing", action="store_true", help="with --watch, also the files that are there at the beginning")
    add("--camera", default="", metavar="N", help="classify a camera's frames; needs OpenCV")
    add("--every", type=float, default=1.0, metavar="S", help="seconds between two frames; 0 for every frame (1)")
    add("--top-k", type=int, default=5, metavar="K", help="number of labels in each line (5)")
    add("--follow", action="store_true", help="take a new version of the model without a restart")
    add("--threads", type=int, default=0, metavar="N", help="CPU threads; 0 for one per core (0)")
    add("--no-cache", dest="cache", action="store_false", help="do not save the optimized graph next to the model")
    return parser


if __name__ == "__main__":
    sys.exit(main())
