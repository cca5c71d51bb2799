"""Ask a teacher once about every view of an image: read what is stored, compute and store the rest."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unfreeze.contract.errors import DataError
from unfreeze.tune.data.images import LabeledImage, Skipped
from unfreeze.tune.data.prefetch import map_ahead
from unfreeze.tune.data.views import Views
from unfreeze.tune.distillation.teacher import Teacher
from unfreeze.tune.features.collect import load_keyed_views
from unfreeze.tune.features.stored import StoredRows
from unfreeze.tune.store.columns import ANSWERS
from unfreeze.tune.store.store import FeatureStore

Advance = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """A teacher's answers for N images in V views.

    Args:
        values: logarithms of its probabilities, float32 [N, V, C].
        computed: number of images that it was asked about; it had answered for the others in earlier runs.
    """

    values: Tensor
    computed: int


def ask(
    teacher: Teacher,
    order: Sequence[int],
    images: Sequence[LabeledImage],
    views: Views,
    store: FeatureStore,
    digests: dict[Path, bytes],
    advance: Advance = lambda _: None,
) -> Answers:
    """Ask a teacher about images, in the views that the student sees.

    The teacher sees each view in its own size, prepared in its own way: of the first one, the image as it serves it; of
    a random one, the same crop, rotation, colors and flip as the student, which depend on the seed, the number of the
    view and the file's name alone.

    Args:
        teacher: the teacher.
        order: for each label of the student, its index in the teacher's answers.
        images: all known to decode.
        views: of the student.
        store: has the answers of earlier runs.
        digests: SHA-256 of the bytes of each image, by its path.
        advance: called with the number of images done since the last call.

    Raises:
        DataError: an image no longer decodes.
    """
    space = store.space({"kind": "teacher", "backbone": f"teacher {teacher.identity.backbone}", **teacher.describe()})
    asked = _Asked(
        teacher=teacher,
        images=images,
        views=replace(views, spec=teacher.spec),
        stored=StoredRows(space=space, digests=digests),
        values=np.zeros((len(images) * views.count, len(teacher.labels)), np.float32),
    )
    done = asked.read()
    advance(int(done.sum()))
    asked.compute(np.flatnonzero(~done), advance)
    values = torch.from_numpy(asked.values[:, list(order)]).unflatten(0, (-1, views.count))
    return Answers(values=values, computed=int((~done).sum()))


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """The answers for N images, row n V + v for view v of image n."""

    teacher: Teacher
    images: Sequence[LabeledImage]
    views: Views
    stored: StoredRows
    values: np.ndarray

    def read(self) -> np.ndarray:
        """Read stored answers; return for which images all are read, bool [N]."""
        count = self.views.count
        if not self.stored.space.is_on:
            return np.zeros(len(self.images), bool)

        def receive(_: str, positions: np.ndarray, values: np.ndarray) -> None:
            self.values[positions] = values

        found = self.stored.space.read(self.stored.keys(self.images, self.views), (ANSWERS,), receive)
        return np.asarray(found.reshape(-1, count).all(axis=1))

    def compute(self, pending: np.ndarray, advance: Advance) -> None:
        """Compute the answers for images, by their numbers, and store them."""
        rows = self._load(pending.tolist(), advance)
        size = self.teacher.batch
        while batch := list(islice(rows, size)):
            numbers, keys, pixels = zip(*batch, strict=True)
            filled = [*pixels, *[pixels[-1]] * (size - len(batch))]
            answers = self.teacher.answer(np.stack(filled))[: len(batch)]
            self.values[list(numbers)] = answers
            if self.stored.space.accepts_rows:
                self.stored.space.add(keys, {ANSWERS: answers})

    def _load(self, pending: Sequence[int], advance: Advance) -> Iterator[tuple[int, str, np.ndarray]]:
        """Decode images ahead; yield the number, the key and the pixels of each row."""
        load = partial(load_keyed_views, self.views)
        for number, loaded in zip(pending, map_ahead(load, (self.images[one] for one in pending)), strict=True):
            if isinstance(loaded, Skipped):
                raise DataError(f"{loaded.path} can no longer be decoded: {loaded.reason}")
            for view, (key, pixels) in enumerate(loaded):
                yield number * self.views.count + view, key, pixels
            advance(1)
