"""In which order images are shown: those first from which the most is learned.

Of the images with the smallest margin between their two highest scores, the next is the one that is farthest from all
that were shown: greedy k-center selection, as in Sener and Savarese, "Active Learning for Convolutional Neural
Networks: A Core-Set Approach" (2018), https://arxiv.org/abs/1708.00489, here on the scores and a small thumbnail.
"""

from collections import Counter, deque
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from unfreeze.contract.arrays import Float32
from unfreeze.contract.errors import ImageError
from unfreeze.contract.images.preprocess import PreprocessSpec, prepare
from unfreeze.review.recorded import RecordedImage

_THUMBNAIL = PreprocessSpec(resize=(8, 8), crop=(8, 8))
_FIRST_WINDOW, _GROWTH, _LARGEST_WINDOW = 16, 4, 96  # decoded before the first image is shown, with each image, at most
_MOST_DECODED = 128  # before one of the near copies is shown
_COMPARED = 512  # images that were shown
_NEAR_COPY = 0.06


def describe(image: RecordedImage, labels: Sequence[str]) -> Float32[np.ndarray, " d"]:
    """Describe an image so that the distance of two images says how different they are: 0 for copies, about 1 at most.

    Args:
        image: the image.
        labels: the labels, each of which has a coordinate.

    Raises:
        ImageError: it cannot be decoded.
        OSError: it cannot be read.
    """
    scores = np.zeros(len(labels), np.float32)
    position = {label: index for index, label in enumerate(labels)}
    for label, score in image.scores:
        scores[position[label]] = score
    pixels = prepare(image.path.read_bytes(), _THUMBNAIL).astype(np.float32).ravel() / 255
    return np.concatenate([scores / 2, pixels / np.sqrt(len(pixels))]).astype(np.float32)


@dataclass
class _Candidate:
    """An image that may come next, its distance from the nearest one that was shown, and the number of that one."""

    image: RecordedImage
    vector: np.ndarray
    distance: float
    nearest: int


class Order:
    """Yields images one after the other, and decodes only those that may come next.

    Args:
        images: all images that are to be shown.
        labels: the labels.

    Attributes:
        unusable: images that cannot be decoded, with the reason.
    """

    def __init__(self, images: Iterable[RecordedImage], labels: Sequence[str]) -> None:
        self._labels = tuple(labels)
        self._waiting = deque(sorted(images, key=lambda image: (image.margin, image.digest)))
        self._window: dict[str, _Candidate] = {}
        self._near_copies: dict[int, deque[RecordedImage]] = {}  # by the number of the image that was shown
        self._copies_shown: Counter[int] = Counter()
        self._shown: deque[tuple[int, np.ndarray]] = deque(maxlen=_COMPARED)
        self._number = 0
        self._size = _FIRST_WINDOW
        self.unusable: dict[str, str] = {}

    def next(self, excluded: Container[str]) -> RecordedImage | None:
        """Return the image to show next; None when there is none left.

        Args:
            excluded: digests of images that need not be shown any more.
        """
        self._window = {digest: one for digest, one in self._window.items() if digest not in excluded}
        budget = _MOST_DECODED
        while True:
            budget = self._fill(excluded, budget)
            for digest in [digest for digest, one in self._window.items() if one.distance < _NEAR_COPY]:
                copy = self._window.pop(digest)
                self._near_copies.setdefault(copy.nearest, deque()).append(copy.image)
            if self._window or not self._waiting or not budget:
                break
        return self._take() if self._window else self._next_near_copy(excluded)

    def _take(self) -> RecordedImage:
        """Take the farthest image; of equally distant ones, the first, which has the smallest margin."""
        digest = max(self._window, key=lambda digest: self._window[digest].distance)
        taken = self._window.pop(digest)
        self._number += 1
        self._shown.append((self._number, taken.vector))
        for one in self._window.values():
            distance = float(np.linalg.norm(one.vector - taken.vector))
            if distance < one.distance:
                one.distance, one.nearest = distance, self._number
        self._size = min(self._size + _GROWTH, _LARGEST_WINDOW)
        return taken.image

    def _fill(self, excluded: Container[str], budget: int) -> int:
        """Add candidates; return how many more images may be decoded."""
        while self._waiting and len(self._window) < self._size and budget:
            image = self._waiting.popleft()
            if image.digest in excluded:
                continue
            budget -= 1
            try:
                vector = describe(image, self._labels)
            except (ImageError, OSError) as error:
                self.unusable[image.digest] = str(error)
            else:
                self._window[image.digest] = _Candidate(image, vector, *self._nearest(vector))
        return budget

    def _next_near_copy(self, excluded: Container[str]) -> RecordedImage | None:
        """Take a copy of the image of which the fewest copies were shown, the one with the smallest margin first."""
        while self._near_copies:
            number = min(self._near_copies, key=lambda number: self._copies_shown[number])
            image = self._near_copies[number].popleft()
            if not self._near_copies[number]:
                del self._near_copies[number]
            if image.digest not in excluded:
                self._copies_shown[number] += 1
                return image
        return None

    def _nearest(self, vector: np.ndarray) -> tuple[float, int]:
        """Return the distance from the nearest image that was shown, and its number."""
        if not self._shown:
            return 1.0, 0
        distances = np.linalg.norm(np.stack([shown for _, shown in self._shown]) - vector, axis=1)
        nearest = int(distances.argmin())
        return float(distances[nearest]), self._shown[nearest][0]
