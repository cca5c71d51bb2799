"""Two sources of activations as one: batches are those of a single one that has all images."""

import numpy as np
import torch
from support.tuning import activations_at, small_network

from unfreeze.tune.features.activations import Cached
from unfreeze.tune.features.joined import Joined


def test_batches_are_in_the_order_of_the_indices() -> None:
    """From either source, mixed, and batches of one of them alone; so are those of some of the images."""
    network = small_network("resnet18")
    whole = activations_at(network, 4, 12, views=2)
    parts = [
        Cached(position=4, activations=whole.activations[rows], labels=whole.labels[rows])
        for rows in (slice(0, 7), slice(7, 12))
    ]
    joined = Joined(first=parts[0], second=parts[1])
    assert (joined.position, joined.views) == (4, 2)
    assert torch.equal(joined.labels, whole.labels)
    rows = [torch.tensor(one) for one in ([11, 0, 7, 6], [1, 2], [8, 10, 9])]
    indices = [(one, one % 2) for one in rows]
    for found, expected in zip(joined.batches(indices), whole.batches(indices), strict=True):
        assert torch.equal(found, expected)
    some = np.array([10, 3, 8])
    (found,), (expected,) = (
        list(one.take(some).batches([(torch.arange(3), torch.zeros(3, dtype=torch.int64))])) for one in (joined, whole)
    )
    assert torch.equal(found, expected)
