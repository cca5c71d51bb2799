"""Admission control: limits of images and bytes."""

import pytest

from unfreeze.contract.errors import InvalidRequestError, QueueFullError
from unfreeze.serve.scheduling.admission import Admission


def test_images_count_until_their_request_ends() -> None:
    """They are released whether the request succeeds or fails."""
    admission = Admission("m", 10, 1000)
    message = "the queue of model m is full: 6 of at most 10 images are waiting; retry later"
    with admission.admit(6, 100), pytest.raises(QueueFullError, match=message):
        admission.admit(5, 1).__enter__()
    with pytest.raises(ZeroDivisionError), admission.admit(10, 1):
        _ = 1 / 0
    with admission.admit(10, 1):
        pass


def test_bytes_are_limited_too() -> None:
    """A few large images fill the queue; an empty queue accepts a request of any size."""
    admission = Admission("m", 10, 2**20)
    message = "the queue of model m is full: 1 of at most 1 MiB of images are waiting"
    with admission.admit(1, 2**20), pytest.raises(QueueFullError, match=message):
        admission.admit(1, 1).__enter__()
    with admission.admit(1, 2**21):
        pass


@pytest.mark.parametrize(
    ("images", "message"),
    [(11, "has 11 images, but at most 10 may wait for model m; send fewer"), (0, "the request has no images")],
)
def test_rejects_requests_that_no_queue_could_accept(images: int, message: str) -> None:
    """A retry would not help, so the error is that of an invalid request."""
    with pytest.raises(InvalidRequestError, match=message):
        Admission("m", 10, 1000).admit(images, 1).__enter__()


@pytest.mark.parametrize(("drain_s", "retry_s"), [(3.0, 1.5), (0.0, 0.01), (60.0, 5.0)])
def test_the_retry_hint_is_half_of_the_estimate(drain_s: float, retry_s: float) -> None:
    """Between 10 ms and 5 s."""
    admission = Admission("m", 1, 1000, lambda: drain_s)
    with admission.admit(1, 1), pytest.raises(QueueFullError) as rejected:
        admission.admit(1, 1).__enter__()
    assert rejected.value.retry_s == retry_s
