"""Predictions on a Ray cluster: workers read, decode and classify, and send the rows to this process.

On a CPU, a worker decodes and classifies. For a GPU, tasks on CPUs decode, and workers with a GPU each classify.
"""

import io
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unfreeze.batch.blocks import Block
from unfreeze.batch.cluster import check_gpu, connected, own_error, raise_behind
from unfreeze.batch.model import JobModel
from unfreeze.batch.ray_map import Places, dataset_of, map_blocks, rows_of, store_blocks, with_workers
from unfreeze.batch.rows import SCHEMA, encode_block
from unfreeze.batch.sources.images import NO_SUCH_FILE
from unfreeze.batch.storage import is_url, located
from unfreeze.batch.workers import (
    IS_LAST,
    NUMBER,
    PART,
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
        if not model.uses_cpu:
            check_gpu(ray, model.device)
        objects, places = store_blocks(ray, (block.to_json() for block in blocks))
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
        failure: UnfreezeError | None = None
        try:
            for number, content in _computed(ray, places, settings, uses_cpu=model.uses_cpu):
                _check_visible(content, base)
                yield number, content
        except ray.exceptions.RayError as error:
            failure = own_error(error)
        raise_behind(failure)


def _computed(ray: Any, places: Places, settings: WorkerSettings, *, uses_cpu: bool) -> Iterator[tuple[int, bytes]]:
    if not uses_cpu:
        yield from _joined(ray, places, settings)
        return
    for row in map_blocks(ray, PredictingWorker, settings, places, cpus=1):
        yield row[NUMBER], row[ROWS]


def _joined(ray: Any, places: Places, settings: WorkerSettings, gpus: float = 1) -> Iterator[tuple[int, bytes]]:
    """Decode in tasks with one core each, classify in workers with a GPU each, and join the batches of a block here."""
    decoded = dataset_of(ray, places).map_batches(
        decode_blocks, fn_kwargs={"settings": settings}, batch_size=1, batch_format="pyarrow", num_cpus=1
    )
    parts: defaultdict[int, dict[int, pa.Table]] = defaultdict(dict)
    sizes: dict[int, int] = {}
    for row in rows_of(with_workers(ray, decoded, ClassifyingWorker, settings, gpus=gpus)):
        number = row[NUMBER]
        parts[number][row[PART]] = from_bytes(row[ROWS])
        if row[IS_LAST]:
            sizes[number] = row[PART] + 1
        if len(parts[number]) == sizes.get(number):
            tables = parts.pop(number)
            yield number, encode_block([SCHEMA.empty_table(), *(tables[part] for part in sorted(tables))])


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
