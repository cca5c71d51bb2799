"""Find images that are in a data set twice: the same bytes, or nearly the same pixels."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from unfreeze.contract.arrays import Float32, UInt8
from unfreeze.tune.data.dataset import TEST, VAL
from unfreeze.tune.data.fingerprints import Fingerprints

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_FLAT = 2.0  # of 255; what deviates less from its mean shows nothing to recognize it by
_LIKE, _CERTAIN = 0.95, 0.998  # correlations; of 396 photographs saved again at quality 60, none fell below 0.998
_RIVAL_RANK, _RIVAL_SHARE = 5, 0.1
_BLOCK = 2**24  # correlations held at a time: 64 MB


@dataclass(frozen=True, kw_only=True)
class Copy:
    """Two images of which one is the other again.

    Args:
        image: index of the later one.
        original: index of the earlier one.
    """

    image: int
    original: int


def find_same_bytes(prints: Fingerprints) -> tuple[Copy, ...]:
    """Find the files of one split that an earlier split holds too, byte for byte.

    Args:
        prints: the images in the order of their splits.
    """
    return tuple(copy for copy in _repeats(prints) if prints.splits[copy.image] != prints.splits[copy.original])


def find_other_labels(prints: Fingerprints) -> tuple[Copy, ...]:
    """Find the files that are the same byte for byte and labeled differently, in one split or in two.

    Args:
        prints: the images.
    """
    labels = [image.label for image in prints.images]
    return tuple(copy for copy in _repeats(prints) if labels[copy.image] != labels[copy.original])


def find_near_copies(prints: Fingerprints, advance: Callable[[int], None]) -> tuple[Copy, ...]:
    """Find the images of one split that an earlier split holds in another size, quality or brightness.

    Every image of val and test is correlated with every one of the splits before, as 16 x 16 gray pixels from which
    the mean image is taken: parts on one conveyor belt share their background, and digits their place. The likest one
    is the same image if the correlation, in color too, is at least 0.998; or if it is at least 0.95 and falls a
    tenth as short of 1 as that of the fifth likest, which tells copies from a set whose images are all alike.

    Args:
        prints: the images in the order of their splits.
        advance: is called with the number of images done since.

    Returns:
        One original at most for each image; none for those that are the same byte for byte.
    """
    known = {copy.image for copy in find_same_bytes(prints)}
    vectors = _search_vectors(prints.thumbnails)
    found: list[Copy] = []
    for split in (VAL, TEST):
        searched = np.flatnonzero(np.array(prints.splits) == split)
        earlier = prints.splits.index(split) if split in prints.splits else 0
        if earlier:
            for rows in np.array_split(searched, len(searched) * earlier // _BLOCK + 1):
                found += _copies(rows, vectors[rows] @ vectors[:earlier].T, prints.thumbnails)
                advance(len(rows))
    return tuple(copy for copy in found if copy.image not in known)


def _repeats(prints: Fingerprints) -> Iterator[Copy]:
    first: dict[bytes, int] = {}
    for index, digest in enumerate(prints.digests):
        original = first.setdefault(digest, index)
        if original != index:
            yield Copy(image=index, original=original)


def _search_vectors(thumbnails: UInt8[np.ndarray, "n h w c"]) -> Float32[np.ndarray, "n d"]:
    """Make vectors whose products are correlations; zeros for images without content."""
    count, height, width, _ = thumbnails.shape
    gray = np.einsum("nhwc,c->nhw", thumbnails, _LUMA).reshape(count, height * width)
    flat = gray.std(axis=1) < _FLAT
    if count:
        gray -= gray.mean(axis=0)
    vectors = _standardized(gray)
    vectors[flat] = 0
    return vectors


def _standardized(vectors: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    vectors = vectors - vectors.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    lengths[lengths < _FLAT * vectors.shape[1] ** 0.5] = np.inf  # which makes them zeros
    vectors /= lengths
    return vectors


def _copies(
    rows: np.ndarray, likeness: Float32[np.ndarray, "q r"], thumbnails: UInt8[np.ndarray, "n h w c"]
) -> Iterator[Copy]:
    best = likeness.argmax(axis=1)
    for row in np.flatnonzero(likeness.max(axis=1) >= _LIKE):
        image, original = int(rows[row]), int(best[row])
        in_color = _correlation(thumbnails[image], thumbnails[original])
        if _is_copy(likeness[row], in_color):
            yield Copy(image=image, original=original)


def _correlation(one: UInt8[np.ndarray, "h w c"], other: UInt8[np.ndarray, "h w c"]) -> float:
    first, second = _standardized(np.stack([one.ravel(), other.ravel()]).astype(np.float32))
    return float(first @ second)


def _is_copy(likeness: Float32[np.ndarray, " r"], in_color: float) -> bool:
    likest = float(likeness.max())
    if min(likest, in_color) >= _CERTAIN:
        return True
    rank = min(_RIVAL_RANK, len(likeness))
    rival = float(np.partition(likeness, -rank)[-rank])
    return in_color >= _LIKE and 1 - likest <= _RIVAL_SHARE * (1 - rival)
