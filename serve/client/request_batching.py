"""Classify a batch of images with as many requests as needed: retries when overloaded, splits after an error.

This module does no I/O, so that the blocking and the asyncio client can share it: `batch_exchange` yields the requests
to send and receives their outcomes.
"""

import random
import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from unfreeze.contract.errors import ImageError, InvalidRequestError, QueueFullError, ServingError
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.serve.client.images import InputImage
from unfreeze.serve.client.messages import Classification, PredictParameters, parse_prediction

_INITIAL_BACKOFF_S, _MAX_BACKOFF_S = 0.1, 2.0
_IMAGE_PREFIX = re.compile(r"image (\d+) of \d+: ")
_REQUEST_TOO_LARGE = re.compile(r"exceeds the server's message size limit|send fewer images per request")


@dataclass(frozen=True, kw_only=True)
class PendingRequests:
    """Requests to send concurrently.

    Args:
        requests: requests, in the order in which their outcomes are expected.
        delay_s: time to wait before sending, in seconds.
    """

    requests: list[pb.PredictRequest]
    delay_s: float = 0.0


Outcome: TypeAlias = pb.PredictResponse | ServingError
BatchExchange: TypeAlias = Generator[PendingRequests, Sequence[Outcome], list[Classification]]


def batch_exchange(
    batch: Sequence[InputImage], parameters: PredictParameters, *, max_attempts: int, strict: bool
) -> BatchExchange:
    """Determine the requests to send until every image of a batch has a result.

    If the server rejects an image, the other images are sent again without it, in two halves. If a request is too
    large, it is split in halves. If the server's queue is full, the request is repeated with exponential backoff, not
    before the delay that the server requested.

    Args:
        batch: the images.
        parameters: parameters of the requests.
        max_attempts: maximum number of attempts while the server's queue is full.
        strict: raise if an image cannot be classified, instead of returning a result with an error.

    Yields:
        The requests to send next; may be none. Send the outcome of each into the generator.

    Returns:
        One result per image, in the order of `batch`.

    Raises:
        ImageError: a file could not be read, and `strict`.
        InvalidRequestError: an image cannot be decoded, and `strict`; or the request is invalid.
        ServingError: the call failed.
    """
    results = _BatchResults(batch, strict=strict)
    slices, full_count, delay_s = results.readable_slices(), 0, 0.0
    while True:
        requests = [parameters.to_request([batch[index].data for index in indices]) for indices in slices]
        outcomes = yield PendingRequests(requests=requests, delay_s=delay_s)
        queue_full = [outcome for outcome in outcomes if isinstance(outcome, QueueFullError)]
        full_count += bool(queue_full)
        if full_count == max_attempts:
            raise queue_full[0]
        delay_s = _backoff_s(full_count, queue_full)
        slices = [
            remaining
            for indices, outcome in zip(slices, outcomes, strict=True)
            for remaining in results.record(indices, outcome)
        ]
        if not slices:
            return results.classifications()


def _backoff_s(full_count: int, errors: Sequence[QueueFullError]) -> float:
    """Exponential backoff with jitter, at least the delay that the server requested."""
    if not errors:
        return 0.0
    backoff = min(_INITIAL_BACKOFF_S * 2.0 ** (full_count - 1), _MAX_BACKOFF_S)
    return max(backoff, *(error.retry_s for error in errors)) * random.uniform(1.0, 1.2)  # noqa: S311 - not a secret


class _BatchResults:
    """The results of a batch, by the index of the image."""

    def __init__(self, batch: Sequence[InputImage], *, strict: bool) -> None:
        self._batch, self._strict = batch, strict
        self._results: dict[int, Classification] = {}

    def readable_slices(self) -> list[list[int]]:
        """Record the images that could not be read; returns the indices of the others as one slice, if any."""
        for index, image in enumerate(self._batch):
            if image.error is not None:
                if self._strict:
                    raise ImageError(image.error)
                self._results[index] = Classification(name=image.name, error=image.error)
        indices = [index for index in range(len(self._batch)) if index not in self._results]
        return [indices] if indices else []

    def classifications(self) -> list[Classification]:
        """Return all results, in the order of the images."""
        return [self._results[index] for index in range(len(self._batch))]

    def record(self, indices: list[int], outcome: Outcome) -> list[list[int]]:
        """Record the outcome of a slice; returns the slices that have to be sent again."""
        if isinstance(outcome, pb.PredictResponse):
            for index, prediction in zip(indices, outcome.predictions, strict=True):
                self._results[index] = parse_prediction(self._batch[index].name, prediction)
            return []
        if isinstance(outcome, QueueFullError):
            return [indices]
        rejected = _rejected_image(indices, str(outcome)) if isinstance(outcome, InvalidRequestError) else None
        if rejected is not None:
            self._record_rejection(rejected, outcome)
            indices = [index for index in indices if index != rejected]
        elif not (_REQUEST_TOO_LARGE.search(str(outcome)) and len(indices) > 1):
            raise outcome
        middle = (len(indices) + 1) // 2
        return [half for half in (indices[:middle], indices[middle:]) if half]

    def _record_rejection(self, index: int, error: ServingError) -> None:
        image, message = self._batch[index], str(error)
        if self._strict:
            raise type(error)(f"{image.name}: {message}" if image.is_file else message) from error
        reason = _IMAGE_PREFIX.sub("", message, count=1)
        self._results[index] = Classification(name=image.name, error=f"{image.name}: {reason}")


def _rejected_image(indices: list[int], message: str) -> int | None:
    """Return the index of the image that an error message is about; None if it is about the request."""
    match = _IMAGE_PREFIX.match(message)
    if match and 1 <= int(match[1]) <= len(indices):
        return indices[int(match[1]) - 1]
    return indices[0] if len(indices) == 1 and _REQUEST_TOO_LARGE.search(message) else None
