"""Very many images: threads of one process against a Ray cluster of two nodes, one of which is killed in the middle.

python -m bench.predict
python -m bench.predict --images 2000 --format parquet --json

Small JPEG files are drawn and written as WebDataset shards and as Parquet files. A network with random weights
classifies them in processes of their own: by threads, and on two nodes of this machine with one core each. Both have to
write the same file, in which each image is once. Then the peak memory of the process that leads the job is compared
with that of a job with a tenth of the images.
"""

import io
import json as jsons
import multiprocessing
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal, Self

import cyclopts
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from rich.table import Table

from bench.models import publish_random
from unfreeze.console import REMARKS, RESULTS, print_json

_SIDE, _INPUT, _SHARD = 96, 64, 500
_POLL_S = 0.05
_QUICK_DETECTION = {  # of a lost node: after about three seconds instead of half a minute
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}
Format = Literal["webdataset", "parquet"]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One job.

    Args:
        job: what was run.
        images: number of images.
        seconds: of the whole process.
        images_per_second: as the command prints it: without its start, with that of the workers.
        peak_mb: peak memory of the process that leads the job, without workers.
        node_was_killed: whether a node was killed while it ran.
    """

    job: str
    images: int
    seconds: float
    images_per_second: float
    peak_mb: float
    node_was_killed: bool = False


def main(
    *,
    images: int = 20_000,
    format: Annotated[tuple[Format, ...], cyclopts.Parameter(negative="")] = ("webdataset", "parquet"),  # noqa: A002
    json: Annotated[bool, cyclopts.Parameter(negative="")] = False,
) -> None:
    """Compare both, and check their results.

    Args:
        images: number of images; a tenth of them for the comparison of memory.
        format: how they are stored.
        json: print JSON instead of a table.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        repository = publish_random("mobilenet_v3_small", folder, image_size=_INPUT)
        measured: list[Measured] = []
        for kind in format:
            sources = {count: write_source(folder / f"{kind}-{count}", kind, count) for count in (images // 10, images)}
            for count, source in sources.items():
                measured += _compare(folder, kind, count, source, repository / "random", kill=count == images)
                REMARKS.print(f"{kind}, {count:,}: the same file, each image once", markup=False)
    if json:
        print_json([asdict(one) for one in measured])
        return
    table = Table("job", "images", "seconds", "images/s", "peak memory, MB", "node killed")
    for one in measured:
        numbers = f"{one.images:,}", f"{one.seconds:.1f}", f"{one.images_per_second:,.0f}", f"{one.peak_mb:.0f}"
        table.add_row(one.job, *numbers, "yes" if one.node_was_killed else "")
    RESULTS.print(table)


def _compare(folder: Path, kind: str, count: int, source: str, model: Path, *, kill: bool) -> Iterator[Measured]:
    command = ["predict", source, "--file", str(model)]
    local, clustered = (folder / f"{kind}-{count}-{where}.parquet" for where in ("local", "ray"))
    yield replace(run_job([*command, "--out", str(local)], count), job=f"{kind}, threads")
    with ClusterRun() as cluster:
        after = count // 1024 // 2 + 20 if kill else None
        ran = cluster.predict([*command, "--out", str(clustered)], count, kill_after_blocks=after)
    yield replace(ran, job=f"{kind}, two nodes")
    check(local, clustered, count)
    if kill and not ran.node_was_killed:
        raise SystemExit("the job ended before the node was killed")


def check(one: Path, other: Path, count: int) -> None:
    """Check that two results are the same file, in which each image is once and was classified.

    Raises:
        SystemExit: they are not.
    """
    rows = pq.read_table(one, columns=["path", "error"])
    if len(rows) != count or len(set(rows["path"].to_pylist())) != count or rows["error"].null_count != count:
        raise SystemExit(f"{one} has {len(rows):,} rows for {count:,} images, or errors")
    if one.read_bytes() != other.read_bytes():
        raise SystemExit(f"{one} and {other} differ")


def write_source(folder: Path, kind: str, count: int) -> str:
    """Draw JPEG files and write them in shards of 500.

    Returns:
        The source, as the command takes it.
    """
    folder.mkdir()
    for shard, start in enumerate(range(0, count, _SHARD)):
        drawn = {f"{number:06}": draw(number) for number in range(start, min(count, start + _SHARD))}
        if kind == "webdataset":
            with tarfile.open(folder / f"{shard:05}.tar", "w") as tar:
                for key, content in drawn.items():
                    member = tarfile.TarInfo(f"{key}.jpg")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        else:
            table = pa.table({"key": list(drawn), "image": list(drawn.values())})
            pq.write_table(table, folder / f"{shard:05}.parquet", row_group_size=100)
    return str(folder)


def draw(number: int) -> bytes:
    """Draw a JPEG file of colored patches."""
    patches = np.random.default_rng(number).integers(0, 256, (6, 6, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(patches).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
    return file.getvalue()


class ClusterRun:
    """A cluster of two nodes on this machine, with one core each; a context manager."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="ray-")  # short, because sockets lie in it
        self._variables = {"RAY_TMPDIR": self._folder, "RAY_USAGE_STATS_ENABLED": "0"}
        self._cluster: Any = None
        self._second: Any = None

    def predict(self, command: Sequence[str], count: int, kill_after_blocks: int | None = None) -> Measured:
        """Run a job on the cluster.

        Args:
            command: of `unfreeze`, without --ray.
            count: number of images.
            kill_after_blocks: number of finished blocks after which the second node is killed; None kills none.
        """
        out = Path(command[command.index("--out") + 1])
        blocks = out.with_name(f".{out.name}.unfinished") / "blocks"
        job = _Running([*command, "--ray", self._cluster.address], count)
        killed = False
        while job.is_alive():
            if kill_after_blocks is not None and not killed and _count(blocks) >= kill_after_blocks:
                self._cluster.remove_node(self._second, allow_graceful=False)
                killed = True
            time.sleep(_POLL_S)
        return replace(job.measured(), node_was_killed=killed)

    def __enter__(self) -> Self:
        os.environ |= self._variables
        from ray.cluster_utils import Cluster

        node = {"num_cpus": 1, "object_store_memory": 200 << 20}
        head = node | {"include_dashboard": False, "_system_config": _QUICK_DETECTION}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._second = self._cluster.add_node(**node)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cluster.shutdown()
        for name in self._variables:
            del os.environ[name]
        shutil.rmtree(self._folder, ignore_errors=True)


def _count(folder: Path) -> int:
    with suppress(OSError):
        return sum(not name.startswith(".") for name in os.listdir(folder))  # noqa: PTH208 - names alone
    return 0


def run_job(command: Sequence[str], count: int) -> Measured:
    """Run a job in a process of its own."""
    return _Running(command, count).measured()


class _Running:
    """A job in a process of its own.

    Args:
        command: of `unfreeze`.
        count: number of images.
    """

    def __init__(self, command: Sequence[str], count: int) -> None:
        self._count, self._started = count, time.monotonic()
        context = multiprocessing.get_context("spawn")
        self._results, results = context.Pipe(duplex=False)
        self._process = context.Process(target=_run, args=(list(command), results))
        self._process.start()

    def is_alive(self) -> bool:
        """Return whether it still runs."""
        return self._process.is_alive()

    def measured(self) -> Measured:
        """Wait for its end.

        Raises:
            SystemExit: it failed.
        """
        self._process.join()
        seconds = time.monotonic() - self._started
        if not self._results.poll():
            raise SystemExit("the job ended without a result")
        found = jsons.loads(self._results.recv())
        rate = float(found["stdout"].rsplit(" images/s", 1)[0].rsplit(" ", 1)[1].replace(",", ""))
        return Measured(
            job="", images=self._count, seconds=seconds, images_per_second=rate, peak_mb=found["peak_kb"] / 1000
        )


def _run(command: list[str], results: Any) -> None:
    """Run a command, and send what it prints and its peak memory."""
    from unfreeze.command import main as run

    stdout, stderr = io.StringIO(), io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr), suppress(SystemExit):
        run(command)
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0])
    results.send(jsons.dumps({"stdout": stdout.getvalue(), "stderr": stderr.getvalue(), "peak_kb": peak}))


if __name__ == "__main__":
    cyclopts.run(main)
