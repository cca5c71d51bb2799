"""Progress of a job in images, also where their number is not known in advance."""

from unfreeze.batch.blocks import Block
from unfreeze.batch.listing import Listing
from unfreeze.contract.reporting import CountingReporter


class BlockProgress:
    """Counts images; tar files whose images are not known are taken to have as many as those that were read.

    Args:
        listing: all images.
        reporter: shows the progress.

    Attributes:
        computed: number of rows that were computed.
    """

    def __init__(self, listing: Listing, reporter: CountingReporter) -> None:
        self._known, self._unknown = listing.images, listing.unknown
        self._show = reporter.count("images")
        self._running: dict[int, bool] = {}  # whether the number of images is known, by block
        self._read_images = self._read_files = 0
        self._done = 0
        self.computed = 0

    def begin(self, block: Block) -> None:
        """Note that a block will be computed."""
        self._running[block.number] = bool(block.images)

    def add(self, number: int, rows: int) -> None:
        """Count a block that was computed."""
        self.computed += rows
        self._count(rows, is_known=self._running.pop(number))

    def skip(self, block: Block, rows: int) -> None:
        """Count a block that an earlier run has finished."""
        self._count(rows, is_known=bool(block.images))

    def _count(self, rows: int, *, is_known: bool) -> None:
        self._done += rows
        if not is_known:
            self._read_images, self._read_files = self._read_images + rows, self._read_files + 1
        each = self._read_images / max(1, self._read_files)
        self._show(self._done, self._known + round(each * self._unknown))
