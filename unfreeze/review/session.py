"""A review: what is shown, what was decided, and the labeled folder that comes out."""

import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unfreeze.contract.errors import UnfreezeError
from unfreeze.review.decisions import LABEL, NONE, SKIP, Decision, Decisions
from unfreeze.review.labeled import LabeledFolder, check_labels, label_problem
from unfreeze.review.order import Order
from unfreeze.review.recorded import RecordedImage, Recording


class DecisionError(UnfreezeError):
    """A decision cannot be accepted."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How far a review is.

    Args:
        images: that were recorded and can be shown.
        left: without a decision.
        labels: number of images by label that a person has given.
        none: images of no class.
        skipped: images that were put off.
        agreed: labeled images whose label the model had found.
    """

    images: int
    left: int
    labels: dict[str, int]
    none: int
    skipped: int
    agreed: int

    @property
    def labeled(self) -> int:
        """Number of labeled images."""
        return sum(self.labels.values())


class Session:
    """A review of one model's images; may be used by several threads. Use it inside of `decisions.locked`.

    Args:
        recording: what a server has recorded.
        out: the labeled folder.

    Raises:
        OptionsError: a label cannot be the name of a folder.
    """

    def __init__(self, recording: Recording, out: Path) -> None:
        check_labels(recording.labels)
        self._images, self._decisions = recording.images, Decisions(recording.folder)
        self._labeled = LabeledFolder(out)
        self._latest = self._decisions.latest()
        self._lock = threading.Lock()
        self._put_off: set[str] = set()  # until the page is opened again
        self._coming: list[RecordedImage] = []
        self.model, self.out = recording.model, out
        added = {one.label for one in self._latest.values() if one.kind == LABEL}
        self._labels = list(dict.fromkeys([*recording.labels, *sorted(added)]))
        undecided = [image for digest, image in recording.images.items() if not self._is_decided(digest)]
        self._order = Order(undecided, self._labels)
        self._labeled.reconcile(
            {digest: one.label for digest, one in self._latest.items() if one.kind == LABEL},
            self._decisions.mentioned,
            {digest: image.path for digest, image in self._images.items()},
        )

    def image(self, digest: str) -> RecordedImage | None:
        """Return a recorded image; None if there is none of this digest."""
        return self._images.get(digest)

    def state(self) -> dict[str, Any]:
        """Describe what the page shows: the image to decide about, the one after it, the labels and the numbers."""
        with self._lock:
            return self._state()

    def decide(self, digest: str, kind: str, label: str = "") -> dict[str, Any]:
        """Accept a decision, which is on disk when this returns.

        Args:
            digest: of the image.
            kind: LABEL, NONE or SKIP.
            label: of LABEL; may be a new one.

        Returns:
            What `state` returns.

        Raises:
            DecisionError: there is no such image, or the label cannot be one.
            OSError: it cannot be written.
        """
        with self._lock:
            image = self._images.get(digest)
            if image is None or kind not in (LABEL, NONE, SKIP):
                raise DecisionError("there is no such image or decision; reload the page")
            label = label.strip() if kind == LABEL else ""
            if kind == LABEL and (problem := label_problem(label)) is not None:
                raise DecisionError(f"{label!r:.100} cannot be a label: {problem}")
            if kind == LABEL and not image.path.is_file():
                raise DecisionError("the image has been deleted meanwhile, for example by the server; skip it")
            self._decisions.add(image, Decision(kind=kind, label=label))
            self._latest[digest] = Decision(kind=kind, label=label)
            self._labeled.remove(digest)
            if kind == LABEL:
                self._labeled.put(image.path, label)
                self._labels += [] if label in self._labels else [label]
            elif kind == SKIP:
                self._put_off.add(digest)
            self._coming = [one for one in self._coming if one.digest != digest]
            return self._state()

    def undo(self) -> dict[str, Any]:
        """Take back the latest decision, and show its image again.

        Returns:
            What `state` returns.

        Raises:
            OSError: it cannot be written.
        """
        with self._lock:
            digest = self._decisions.undo()
            if digest is None:
                return self._state()
            self._labeled.remove(digest)
            self._latest = self._decisions.latest()
            self._put_off.discard(digest)
            before, image = self._latest.get(digest), self._images.get(digest)
            if before is not None and before.kind == LABEL and image is not None:
                self._labeled.put(image.path, before.label)
            if image is not None:
                self._coming = [image, *(one for one in self._coming if one.digest != digest)]
            return self._state()

    def summary(self) -> Summary:
        """Return how far the review is."""
        counts: Counter[str] = Counter()
        labels: Counter[str] = Counter()
        agreed = 0
        for digest, decision in self._latest.items():
            counts[decision.kind] += 1
            if decision.kind == LABEL:
                labels[decision.label] += 1
                agreed += digest in self._images and self._images[digest].label == decision.label
        usable = [digest for digest in self._images if digest not in self._order.unusable]
        return Summary(
            images=len(usable),
            left=sum(not self._is_decided(digest) for digest in usable),
            labels=dict(sorted(labels.items())),
            none=counts[NONE],
            skipped=counts[SKIP],
            agreed=agreed,
        )

    def unusable(self) -> dict[str, str]:
        """Return the images that could not be decoded so far, with the reason."""
        return dict(self._order.unusable)

    def _state(self) -> dict[str, Any]:
        self._look_ahead()
        summary = self.summary()
        shown = [_document(image) for image in self._coming[:2]]
        return {
            "image": shown[0] if shown else None,
            "next": shown[1]["digest"] if len(shown) > 1 else None,
            "labels": self._labels,
            "left": summary.left,
            "images": summary.images,
            "labeled": summary.labeled,
            "none": summary.none,
            "skipped": summary.skipped,
            "unusable": len(self._order.unusable),
            "can_undo": bool(self._latest),
            "out": str(self.out),
        }

    def _look_ahead(self) -> None:
        """Choose the image to show and the one after it."""
        while len(self._coming) < 2:  # noqa: PLR2004
            done = self._done() | {image.digest for image in self._coming}
            image = self._order.next(done)
            if image is None:
                return
            self._coming.append(image)

    def _done(self) -> set[str]:
        return {digest for digest in self._latest if self._is_decided(digest)} | self._put_off

    def _is_decided(self, digest: str) -> bool:
        decision = self._latest.get(digest)
        return decision is not None and decision.kind != SKIP


def _document(image: RecordedImage) -> dict[str, Any]:
    return {
        "digest": image.digest,
        "scores": [{"label": label, "score": score} for label, score in image.scores],
        "unsure": image.unsure,
        "reasons": image.reasons,
        "seen": image.seen,
        "time": image.time,
        "version": image.version,
    }
