"""A function of blocks on a Ray cluster, through Ray Data.

The rows of the data set are the places of blocks in Ray's object store, so that this process holds a few numbers for
each block, however many images there are.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

_BLOCKS_OF_AN_OBJECT = 16
_MOST_TASKS = 4096
OBJECT, PLACE = "object", "place"
Places = list[dict[str, int]]


def store_blocks(ray: Any, blocks: Iterable[bytes]) -> tuple[tuple[Any, ...], Places]:
    """Put blocks into the object store, some into each object.

    Args:
        ray: the module, connected.
        blocks: read a few at a time.

    Returns:
        The objects, and the place of each block in them.
    """
    waiting = iter(blocks)
    objects, places = list[Any](), Places()
    while group := list(islice(waiting, _BLOCKS_OF_AN_OBJECT)):
        places += [{OBJECT: len(objects), PLACE: place} for place in range(len(group))]
        objects.append(ray.put(group))
    return tuple(objects), places


def dataset_of(ray: Any, places: Places) -> Any:
    """Return a data set whose rows are the places of blocks."""
    return ray.data.from_items(places, override_num_blocks=min(len(places), _MOST_TASKS))


def map_blocks(
    ray: Any, worker: type, settings: Any, places: Places, *, cpus: float = 0, gpus: float = 0
) -> Iterator[dict[str, Any]]:
    """Apply a worker to blocks.

    Args:
        ray: the module, connected.
        worker: called with a table of places, it yields tables; constructed once in each process with `settings`.
        settings: of the worker.
        places: of the blocks.
        cpus: cores that a worker needs.
        gpus: GPUs that a worker needs.

    Yields:
        The rows of these tables, in any order.
    """
    yield from rows_of(with_workers(ray, dataset_of(ray, places), worker, settings, cpus=cpus, gpus=gpus))


def with_workers(ray: Any, dataset: Any, worker: type, settings: Any, *, cpus: float = 0, gpus: float = 0) -> Any:
    """Return a data set to whose rows a worker was applied, one by one; the pool of workers grows with the cluster."""
    return dataset.map_batches(
        worker,
        fn_constructor_kwargs={"settings": settings},
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=1),
        num_cpus=cpus,
        num_gpus=gpus,
    )


def rows_of(dataset: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows of a data set as soon as they are computed; this process holds a few of them."""
    for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from table.to_pylist()
