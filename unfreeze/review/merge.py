"""The images of a dataset beside those that were reviewed, so that one `unfreeze tune` sees both."""

import hashlib
from collections import Counter
from pathlib import Path

from unfreeze.review.labeled import check_labels, link_or_copy
from unfreeze.tune.data.dataset import read_dataset, stored_path


def merge(data: Path, out: Path) -> dict[str, int]:
    """Link the images of a dataset into a folder with the splits that `unfreeze tune` would use for it.

    Validation and test images stay what they were, so that the accuracy of the next run can be compared with that of
    the last; where the dataset has no validation images, they are those that `unfreeze tune` holds out by default.

    Args:
        data: the dataset, as `unfreeze tune` takes it.
        out: the folder; receives `train`, `val` and, if there is one, `test`.

    Returns:
        Number of images by split.

    Raises:
        DataError: the dataset cannot be read.
        OptionsError: a label cannot be the name of a folder.
    """
    dataset = read_dataset(data)
    check_labels(dataset.labels)
    for split, images in dataset.splits.items():
        named = Counter((image.label, image.path.name) for image in images)
        for image in images:
            name = image.path.name
            if named[image.label, name] > 1:
                text = stored_path(image.path, dataset.root)
                name = f"{hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()[:12]}-{name}"
            link_or_copy(image.path, out / split / dataset.labels[image.label] / name)
    return {split: len(images) for split, images in dataset.splits.items()}
