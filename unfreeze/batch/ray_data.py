"""Blocks on a Ray cluster, through Ray Data: workers read, decode and classify, and send the rows to this process.

The rows of the data set are the numbers of blocks; the blocks themselves and the model are in Ray's object store. On a
CPU, a worker decodes and classifies. For a GPU, tasks on CPUs decode, and workers with a GPU each classify.
"""

import io
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from unfreeze.batch.blocks import Block
from unfreeze.batch.cluster import connected, own_error
from unfreeze.batch.model import CPU, JobModel
from unfreeze.batch.rows import SCHEMA, encode_block
from unfreeze.batch.sources.images import NO_SUCH_FILE
from unfreeze.batch.storage import is_url, located
from unfreeze.batch.workers import (
    IS_LAST,
    NUMBER,
    OBJECT,
    PART,
    PLACE,
    ROWS,
    ClassifyingWorker,
    PredictingWorker,
    WorkerSettings,
    decode_blocks,
    from_bytes,
)
from unfreeze.contract.errors import UnfreezeError
from unfreeze.contract.folders import file_problem
from unfreeze.contract.model.onnx_metadata import read_manifest

if TYPE_CHECKING:
    from ray.data import Dataset

_BLOCKS_OF_AN_OBJECT = 16
_MOST_TASKS = 4096


def predict_on_ray(
    model: JobModel, top_k: int, base: str, blocks: Iterable[Block], address: str
) -> Iterator[tuple[int, bytes]]:
    """Classify blocks on a cluster.

    Args:
        model: the model.
        top_k: number of labels of an image.
        base: folder that local paths are relative to.
        blocks: they are put into Ray's object store, a few at a time.
        address: of the cluster, see `connected`.

    Yields:
        The number of a block and its rows as a Parquet file, in the order in which blocks are finished.

    Raises:
        UnfreezeError: there is no cluster, a worker cannot read a source or load the model, or the model failed.
    """
    with connected(address) as ray:
        objects, places = _store_blocks(ray, blocks)
        if not places:
            return
        settings = WorkerSettings(
            model=ray.put(model),
            blocks=objects,
            spec=read_manifest(model.content).preprocess,
            batch=model.batch,
            top_k=top_k,
            base=base,
        )
        if model.device != CPU and not ray.cluster_resources().get("GPU"):
            raise UnfreezeError(f"--device {model.device}: no machine of the Ray cluster has a GPU; use --device cpu")
        numbers = ray.data.from_items(places, override_num_blocks=min(len(places), _MOST_TASKS))
        computed = _whole_blocks(numbers, settings) if model.device == CPU else _joined(numbers, settings)
        try:
            for number, content in computed:
                _check_visible(content, base)
                yield number, content
        except ray.exceptions.RayError as error:
            raise own_error(error) from error


def _store_blocks(ray: Any, blocks: Iterable[Block]) -> "tuple[tuple[Any, ...], list[dict[str, int]]]":
    """Put blocks into the object store, some into each object; return the objects, and the place of each block."""
    waiting = iter(blocks)
    objects, places = list[Any](), list[dict[str, int]]()
    while group := list(islice(waiting, _BLOCKS_OF_AN_OBJECT)):
        places += [{OBJECT: len(objects), PLACE: place} for place in range(len(group))]
        objects.append(ray.put([block.to_json() for block in group]))
    return tuple(objects), places


def _whole_blocks(numbers: "Dataset", settings: WorkerSettings) -> Iterator[tuple[int, bytes]]:
    """Read, decode and classify in workers with one core each."""
    from ray.data import ActorPoolStrategy

    computed = numbers.map_batches(
        PredictingWorker,
        fn_constructor_kwargs={"settings": settings},
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(min_size=1),
        num_cpus=1,
    )
    for row in _rows(computed):
        yield row[NUMBER], row[ROWS]


def _joined(numbers: "Dataset", settings: WorkerSettings, gpus: float = 1) -> Iterator[tuple[int, bytes]]:
    """Decode in tasks with one core each, classify in workers with a GPU each, and join the batches of a block here."""
    from ray.data import ActorPoolStrategy

    decoded = numbers.map_batches(
        decode_blocks,
        fn_kwargs={"settings": settings},
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=1,
    )
    classified = decoded.map_batches(
        ClassifyingWorker,
        fn_constructor_kwargs={"settings": settings},
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(min_size=1),
        num_gpus=gpus,
    )
    parts: defaultdict[int, dict[int, pa.Table]] = defaultdict(dict)
    sizes: dict[int, int] = {}
    for row in _rows(classified):
        number = row[NUMBER]
        parts[number][row[PART]] = from_bytes(row[ROWS])
        if row[IS_LAST]:
            sizes[number] = row[PART] + 1
        if len(parts[number]) == sizes.get(number):
            tables = parts.pop(number)
            yield number, encode_block([SCHEMA.empty_table(), *(tables[part] for part in sorted(tables))])


def _rows(computed: "Dataset") -> Iterator[dict[str, Any]]:
    """Yield the rows of a data set as soon as they are computed; this process holds a few of them."""
    for table in computed.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from cast("pa.Table", table).to_pylist()


def _check_visible(content: bytes, base: str) -> None:
    """Check that files that a worker did not find do not exist here either.

    Raises:
        UnfreezeError: the worker's machine does not have the files of this one.
    """
    found = pq.read_table(io.BytesIO(content), columns=["path", "error"])
    for path, error in zip(found["path"].to_pylist(), found["error"].to_pylist(), strict=True):
        if error == NO_SUCH_FILE and not is_url(path) and file_problem(located(path, base)) is None:
            raise UnfreezeError(
                f"a worker of the cluster cannot see {path}, which is on this machine; put the images where all "
                "machines can read them: a shared folder, or a URL such as s3://"
            )
