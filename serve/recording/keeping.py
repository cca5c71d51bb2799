"""Stored images within their limits: none twice, none older than the retention, not more than the size."""

import json
import logging
import time
from collections.abc import Iterable

from unfreeze.serve.recording.answered import Answered, read_document, seen_again
from unfreeze.serve.recording.selection import RANDOM
from unfreeze.serve.recording.storage import Storage, StoredImage

_FILLED = 0.9  # of the size is left when images were deleted to make place
_LABELS = "labels.json"
STORED, SEEN, DROPPED, FAILED = "stored", "seen", "dropped", "failed"
_log = logging.getLogger(__name__)


class KeptImages:
    """The images of a storage.

    Args:
        storage: where they are.
        most_bytes: of all images and their descriptions.
        most_s: age in seconds at which an image is deleted.
    """

    def __init__(self, storage: Storage, most_bytes: int, most_s: float) -> None:
        self._storage, self._most_bytes, self._most_s = storage, most_bytes, most_s
        self._random: set[str] = set()  # images without another reason that this process has stored
        self._described: set[tuple[str, str]] = set()

    def add(self, answered: Answered, times: int = 1) -> str:
        """Store an image, or count it where it is stored already.

        Args:
            answered: the image with what was answered.
            times: how often it was answered.

        Returns:
            STORED, SEEN, or DROPPED if it is larger than everything that may be stored.

        Raises:
            Exception: whatever the storage raises; the image is then not stored.
        """
        stem = answered.path()
        image, beside = f"{stem}{answered.suffix()}", f"{stem}.json"
        with self._storage.locked():
            before = read_document(self._storage.read(beside))
            if before is not None and self._storage.exists(image):
                self._storage.write(beside, _encoded(seen_again(before, answered, times)))
                return SEEN
            description = _encoded(answered.document() | {"seen": times})
            size = len(answered.data) + len(description)
            if size > self._most_bytes:
                return DROPPED
            used = self._make_place(size)
            self._describe(answered)
            self._storage.write(image, answered.data)
            self._note(image, beside, description, used + size)
        if answered.reasons == (RANDOM,):
            self._random.add(image)
        return STORED

    def sweep(self) -> None:
        """Delete what is too old, and what is too much.

        Raises:
            Exception: whatever the storage raises.
        """
        with self._storage.locked():
            self._storage.note_used(self._sweep(self._most_bytes))

    def _make_place(self, size: int) -> int:
        used = self._storage.used()
        if used is None or used + size > self._most_bytes:
            used = self._sweep(self._most_bytes - size)
        return used

    def _sweep(self, most_bytes: int) -> int:
        """Delete images that are too old, then as many as necessary; return the bytes that are left."""
        oldest = time.time() - self._most_s
        kept = []
        for image in self._storage.images():
            if image.time < oldest:
                self._delete(image)
            else:
                kept.append(image)
        used = sum(image.size for image in kept)
        if used <= most_bytes:
            return used
        for image in self._in_order_of_deletion(kept):
            if used <= min(most_bytes, _FILLED * self._most_bytes):
                break
            self._delete(image)
            used -= image.size
        return used

    def _in_order_of_deletion(self, images: Iterable[StoredImage]) -> list[StoredImage]:
        """Sort images: those that were only drawn at random first, each from the oldest on."""
        return sorted(images, key=lambda image: (not self._is_random(image), image.time))

    def _is_random(self, image: StoredImage) -> bool:
        if not self._storage.reads_fast:
            return image.path in self._random
        document = None if image.document is None else read_document(self._storage.read(image.document))
        return document is None or document["reasons"] == [RANDOM]

    def _delete(self, image: StoredImage) -> None:
        self._storage.delete(image.path)
        if image.document is not None:
            self._storage.delete(image.document)
        self._random.discard(image.path)

    def _describe(self, answered: Answered) -> None:
        """Write the labels of a version once, for the page that corrects them."""
        version = answered.model, answered.version
        if version not in self._described:
            self._storage.write(f"{'/'.join(version)}/{_LABELS}", json.dumps(list(answered.manifest.labels)).encode())
            self._described.add(version)

    def _note(self, image: str, beside: str, description: bytes, used: int) -> None:
        try:
            self._storage.write(beside, description)
            self._storage.note_used(used)
        except BaseException:
            for path in (image, beside):
                try:
                    self._storage.delete(path)
                except Exception:  # noqa: BLE001 - the first error is the one to report
                    _log.debug("cannot delete %s", path, exc_info=True)
            raise


def _encoded(document: dict[str, object]) -> bytes:
    return json.dumps(document, ensure_ascii=False, indent=1).encode("utf-8", "replace")
