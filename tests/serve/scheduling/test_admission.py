"""Admission: how much may wait, in images and in bytes."""

import pytest

from unfreeze.contract.errors import InvalidRequestError, QueueFullError
from unfreeze.serve.scheduling.admission import Admission


def test_what_is_inside_counts_until_it_leaves() -> None:
    """Images and bytes are counted while their requests run, and given back however these end."""
    queue = Admission("m", 10, 1000)
    with queue.admit(6, 100), pytest.raises(QueueFullError, match="6 images are waiting for m; no more than 10 may"):
        queue.admit(5, 1).__enter__()
    with pytest.raises(ZeroDivisionError), queue.admit(10, 1):
        _ = 1 / 0
    with queue.admit(10, 1):
        pass


def test_bytes_are_bounded_too() -> None:
    """A few images of many bytes fill the queue as well; alone, any request that fits a message is taken."""
    queue = Admission("m", 10, 2**20)
    with queue.admit(1, 2**20), pytest.raises(QueueFullError, match="1 MiB of images are waiting for m"):
        queue.admit(1, 1).__enter__()
    with queue.admit(1, 2**21):
        pass


def test_what_can_never_be_taken_is_not_told_to_try_later() -> None:
    """More images than may ever wait are the request's fault."""
    for images, message in ((11, "holds 11 images; no more than 10 may wait for m"), (0, "holds no image")):
        with pytest.raises(InvalidRequestError, match=message):
            Admission("m", 10, 1000).admit(images, 1).__enter__()
