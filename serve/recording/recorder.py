"""Keep answered images in the background: whatever happens to the storage, no request waits for it or fails."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np

from unfreeze.contract.answers import are_foreign, ood_scores_in, probabilities_in
from unfreeze.contract.arrays import Float32
from unfreeze.contract.errors import first_line
from unfreeze.serve.models.served import ServedModel
from unfreeze.serve.options import ServeOptions
from unfreeze.serve.recording.answered import Answered
from unfreeze.serve.recording.keeping import DROPPED, FAILED, SEEN, STORED, KeptImages
from unfreeze.serve.recording.queue import BoundedQueue
from unfreeze.serve.recording.selection import consent_of, selected
from unfreeze.serve.recording.storage import open_storage
from unfreeze.serve.scheduling.request import EncodedImage
from unfreeze.serve.traffic.shadow import KEEP_DIFFERENT

RECORDED: Counter[str] = Counter()  # images of this process, by what became of them
OUTCOMES = STORED, SEEN, DROPPED, FAILED
Record: TypeAlias = Callable[..., None]
_MOST_WAITING, _MOST_WAITING_BYTES = 1024, 64 * 2**20
_GATHER_S = 0.1  # between two rounds, so that copies of one image are counted together
_SWEEP_S, _AFTER_ERROR_S, _LOG_S, _CLOSE_S = 3600.0, 1.0, 60.0, 5.0
_DAY_S = 86_400
_log = logging.getLogger(__name__)


class Recorder:
    """Keeps a sample of the images that callers, or the operator, allow to be stored.

    Args:
        where: folder or URL.
        options: share, consent and limits.
    """

    def __init__(self, where: str, options: ServeOptions) -> None:
        self._share, self._for_all = options.record_share, options.record_consent == "all"
        self._storage = open_storage(where)
        self._kept = KeptImages(self._storage, options.record_max_mib * 2**20, options.record_days * _DAY_S)
        self._queue = BoundedQueue[Answered](_MOST_WAITING, _MOST_WAITING_BYTES)
        self._thread = threading.Thread(target=self._run, name="record", daemon=True)
        self._stopping, self._gave_up = threading.Event(), False
        self._next_sweep = self._next_log = 0.0

    def open(self) -> None:
        """Check that images can be stored, and start to.

        Raises:
            OptionsError: the folder cannot be written, or a package is missing.
        """
        for outcome in OUTCOMES:
            RECORDED.setdefault(outcome, 0)
        self._storage.prepare()
        self._thread.start()

    def close(self) -> None:
        """Store what waits, for a few seconds at most."""
        self._queue.close()
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(_CLOSE_S)
        self._gave_up = self._thread.is_alive()
        if self._gave_up:
            _log.warning("images that were still to be recorded are dropped: the storage is too slow")

    def recording(self, metadata: Iterable[tuple[str, str | bytes]], request_id: Callable[[], str]) -> Record | None:
        """Return what receives the answer to a request; None if the images of the request may not be stored.

        Args:
            metadata: of the request, or its headers.
            request_id: returns the ID of the request.
        """
        consent = consent_of(metadata)
        record = partial(self._add, request_id) if consent or (consent is None and self._for_all) else None
        KEEP_DIFFERENT.set(None if record is None else partial(_record_different, record))
        return record

    def _add(
        self,
        request_id: Callable[[], str],
        model: ServedModel,
        images: Sequence[EncodedImage] | np.ndarray,
        rows: Float32[np.ndarray, "n a"],
        disagreement: Sequence[bool] | None = None,
    ) -> None:
        """Choose the images to keep, and put them into the queue. Pixels that callers have prepared are not kept."""
        if isinstance(images, np.ndarray):
            return
        manifest = model.manifest
        foreign = None if manifest.ood is None else are_foreign(ood_scores_in(rows, manifest), manifest.ood)
        marks = manifest.abstain_below, self._share, foreign, disagreement
        for index, reasons in selected(probabilities_in(rows, manifest), *marks):
            answered = Answered(
                data=bytes(images[index]),
                model=model.name,
                version=model.version,
                manifest=manifest,
                row=rows[index],
                reasons=reasons,
                request_id=request_id(),
                time=time.time(),
            )
            if not self._queue.offer(answered, len(answered.data)):
                RECORDED[DROPPED] += 1

    def _run(self) -> None:
        self._sweep_if_due()
        while (batch := self._queue.take(_SWEEP_S)) is not None:
            for group in _copies(batch):
                self._keep(group)
            self._sweep_if_due()
            self._stopping.wait(_GATHER_S)

    def _keep(self, group: list[Answered]) -> None:
        if self._gave_up:
            RECORDED[DROPPED] += len(group)
            return
        try:
            outcome = self._kept.add(group[-1], len(group))
        except Exception as error:  # noqa: BLE001 - drivers of file systems raise errors of many types
            RECORDED[FAILED] += len(group)
            self._report(error)
            return
        RECORDED[outcome] += 1
        RECORDED[DROPPED if outcome == DROPPED else SEEN] += len(group) - 1

    def _sweep_if_due(self) -> None:
        if time.monotonic() < self._next_sweep:
            return
        self._next_sweep = time.monotonic() + _SWEEP_S
        try:
            self._kept.sweep()
        except Exception as error:  # noqa: BLE001 - as above
            self._report(error)

    def _report(self, error: Exception) -> None:
        """Log an error, not more often than once a minute, and give the storage time to recover."""
        if time.monotonic() >= self._next_log:
            self._next_log = time.monotonic() + _LOG_S
            _log.error("images cannot be recorded: %s: %s", type(error).__name__, first_line(error))
        self._stopping.wait(_AFTER_ERROR_S)


def _record_different(record: Record, model: ServedModel, image: EncodedImage, row: Float32[np.ndarray, " a"]) -> None:
    """Record an image to which a shadow gave another label."""
    record(model, [image], row[np.newaxis], [True])


def _copies(batch: list[Answered]) -> list[list[Answered]]:
    """Group the same bytes that the same version has answered."""
    groups: dict[tuple[str, str, bytes], list[Answered]] = {}
    for answered in batch:
        groups.setdefault((answered.model, answered.version, answered.data), []).append(answered)
    return list(groups.values())
