"""Find images that are in a dataset twice: with the same bytes, or with nearly the same pixels."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from unfreeze.contract.arrays import Float32, UInt8
from unfreeze.tune.data.dataset import TEST, VAL
from unfreeze.tune.data.inspection.fingerprints import Fingerprints

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
FLAT = 2.0  # of 255; images with a lower standard deviation are too uniform to compare
_SIMILAR, _SAME = 0.95, 0.998  # correlations; 396 photographs saved again at quality 60 all reached 0.998
_RIVAL_RANK, _RIVAL_SHARE = 5, 0.1
_BLOCK = 2**24  # correlations computed at a time: 64 MB
_LARGEST = 20_000  # images of which every pair is compared, in seconds


@dataclass(frozen=True, kw_only=True)
class Copy:
    """Two images of which the later one is a copy of the earlier one.

    Args:
        image: index of the copy.
        original: index of the earlier image.
    """

    image: int
    original: int


def find_same_bytes(prints: Fingerprints) -> tuple[Copy, ...]:
    """Find images of one split that are in an earlier split too, byte for byte.

    Args:
        prints: fingerprints of the images, in the order of their splits.
    """
    return tuple(copy for copy in _repeats(prints) if prints.splits[copy.image] != prints.splits[copy.original])


def find_other_labels(prints: Fingerprints) -> tuple[Copy, ...]:
    """Find images that are equal byte for byte and have different labels, in one split or in two.

    Args:
        prints: fingerprints of the images.
    """
    labels = [image.label for image in prints.images]
    return tuple(copy for copy in _repeats(prints) if labels[copy.image] != labels[copy.original])


def find_near_copies(prints: Fingerprints, advance: Callable[[int], None]) -> tuple[Copy, ...]:
    """Find images of one split that an earlier split has in another size, quality or brightness.

    Thumbnails of 16 x 16 gray pixels, minus the mean thumbnail, are correlated: every image of val and test with every
    image of the earlier splits. Without the mean, a background or a position that all images share does not count. The
    most similar image is an original if the correlation, also in color, is at least 0.998; or if it is at least 0.95
    and its distance to 1 is at most a tenth of that of the fifth most similar image. The second rule separates copies
    from datasets whose images are all alike.

    Args:
        prints: fingerprints of the images, in the order of their splits.
        advance: called with the number of images done since the last call.

    Returns:
        At most one copy per image, without those that are equal byte for byte.
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


def find_near_other_labels(prints: Fingerprints) -> tuple[Copy, ...]:
    """Find images that nearly equal one with another label, in one split or in two, as in `find_near_copies`.

    Args:
        prints: fingerprints of at most 20,000 images; nothing is found among more.

    Returns:
        At most one copy per image, and each pair once; without those that are equal byte for byte.
    """
    count = len(prints.images)
    if not 1 < count <= _LARGEST:
        return ()
    labels = np.array([image.label for image in prints.images])
    vectors = _search_vectors(prints.thumbnails)
    found: dict[frozenset[int], Copy] = {}
    for rows in np.array_split(np.arange(count), count * count // _BLOCK + 1):
        correlations = vectors[rows] @ vectors.T
        others = np.where(labels[rows, None] == labels, -1, correlations)
        is_another = rows[:, None] != np.arange(count)
        rivals = correlations[is_another].reshape(len(rows), count - 1)
        for copy in _copies(rows, others, prints.thumbnails, rivals):
            pair = frozenset((copy.image, copy.original))
            if len({prints.digests[row] for row in pair}) > 1:
                found.setdefault(pair, Copy(image=max(pair), original=min(pair)))
    return tuple(found.values())


def _repeats(prints: Fingerprints) -> Iterator[Copy]:
    first: dict[bytes, int] = {}
    for index, digest in enumerate(prints.digests):
        original = first.setdefault(digest, index)
        if original != index:
            yield Copy(image=index, original=original)


def _search_vectors(thumbnails: UInt8[np.ndarray, "n h w c"]) -> Float32[np.ndarray, "n d"]:
    """Return vectors whose products are correlations; zeros for images without content."""
    count, height, width, _ = thumbnails.shape
    gray = np.einsum("nhwc,c->nhw", thumbnails, _LUMA).reshape(count, height * width)
    flat = gray.std(axis=1) < FLAT
    if count:
        gray -= gray.mean(axis=0)
    vectors = _standardized(gray)
    vectors[flat] = 0
    return vectors


def _standardized(vectors: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    vectors = vectors - vectors.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    lengths[lengths < FLAT * vectors.shape[1] ** 0.5] = np.inf  # the vector becomes zero
    vectors /= lengths
    return vectors


def _copies(
    rows: np.ndarray,
    correlations: Float32[np.ndarray, "q r"],
    thumbnails: UInt8[np.ndarray, "n h w c"],
    rivals: Float32[np.ndarray, "q s"] | None = None,
) -> Iterator[Copy]:
    """Yield the copies among images.

    Args:
        rows: numbers of the images.
        correlations: of each with every possible original.
        thumbnails: of all images.
        rivals: correlations of each with the images that a copy must stand out from; by default, the originals.
    """
    best, highest = correlations.argmax(axis=1), correlations.max(axis=1)
    compared = correlations if rivals is None else rivals
    for row in np.flatnonzero(highest >= _SIMILAR):
        image, original = int(rows[row]), int(best[row])
        in_color = _correlation(thumbnails[image], thumbnails[original])
        if _is_copy(float(highest[row]), compared[row], in_color):
            yield Copy(image=image, original=original)


def _correlation(one: UInt8[np.ndarray, "h w c"], other: UInt8[np.ndarray, "h w c"]) -> float:
    first, second = _standardized(np.stack([one.ravel(), other.ravel()]).astype(np.float32))
    return float(first @ second)


def _is_copy(best: float, rivals: Float32[np.ndarray, " r"], in_color: float) -> bool:
    if min(best, in_color) >= _SAME:
        return True
    rank = min(_RIVAL_RANK, len(rivals))
    rival = float(np.partition(rivals, -rank)[-rank])
    return in_color >= _SIMILAR and 1 - best <= _RIVAL_SHARE * (1 - rival)
