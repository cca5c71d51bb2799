"""The server against NVIDIA Triton, both under NVIDIA's perf_analyzer, and against a plain loop in one process.

python -m bench.serve --images photographs/ --perf-analyzer path/to/perf_analyzer --triton path/to/start

mobilenet_v3_small at 224 px with random weights, unless --repository is given. The load generator shares the cores with
the server. Servers alternate, each in its own process, for several rounds. `--triton` is a program that serves
`model.onnx` on a gRPC port (`start model.onnx PORT`) as the models `pixels` and `jpeg`. perf_analyzer is part of
NVIDIA's tritonclient wheels for Linux.
"""

import base64
import json as jsons
import resource
import signal
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import cyclopts
import grpc
from rich.table import Table

from bench.models import publish_random
from bench.perf_analyzer import drive
from unfreeze.console import REMARKS, RESULTS, print_json
from unfreeze.contract.cores import usable_cores
from unfreeze.contract.images.preprocess import prepare
from unfreeze.contract.model.repository import ENCODED_SUFFIX, ModelRepository
from unfreeze.demo.serving import serving
from unfreeze.serve.runtimes.onnx_cpu import open_path

_PORT = 18001
_LOOP_S = 4.0


def main(
    *,
    images: Path,
    perf_analyzer: str = "perf_analyzer",
    triton: Path | None = None,
    repository: Path | None = None,
    model: str = "random",
    concurrency: tuple[int, ...] = (1, 8, 32),
    rounds: int = 3,
    interval_ms: int = 4000,
    json: Annotated[bool, cyclopts.Parameter(negative="")] = False,
) -> None:
    """Load both servers, alternating, and compare.

    Args:
        images: folder of JPEG files, which are sent encoded.
        perf_analyzer: path of the program.
        triton: program that starts the peer; without it only unfreeze is measured.
        repository: model repository.
        model: name of a model in it.
        concurrency: requests in flight.
        rounds: number of measurements of each; medians are shown.
        interval_ms: duration of one measurement.
        json: print JSON instead of a table.
    """
    with tempfile.TemporaryDirectory() as folder:
        repository = repository or publish_random("mobilenet_v3_small", Path(folder), model)
        found = ModelRepository(repository)
        path = found.path(model, found.versions(model)[-1])
        load = Path(folder) / "load.json"
        encoded = [file.read_bytes() for file in sorted(images.rglob("*.jpg"))]
        load.write_text(jsons.dumps({"data": [{"image": {"b64": _element(data)}} for data in encoded]}))
        ours = {"pixels": (model, []), "jpeg": (model + ENCODED_SUFFIX, ["--input-data", load])}
        theirs = {"pixels": ("pixels", []), "jpeg": ("jpeg", ["--input-data", load])}
        rows: list[dict[str, Any]] = []
        for number in range(rounds):
            sides = [("triton", _triton(triton, path), theirs)] if triton else []
            for side, server, models in [*sides, ("ours", serving(repository, "--poll-s", "0"), ours)]:
                with server as target:
                    for kind, (name, extra) in models.items():
                        for count in concurrency:
                            row = _measure(perf_analyzer, target, name, count, interval_ms, extra)
                            rows.append({"round": number, "side": side, "kind": kind, "concurrency": count, **row})
                            REMARKS.print(jsons.dumps(rows[-1]), markup=False)
            rows += [{"round": number, "side": "loop", "kind": kind, **row} for kind, row in _loops(path, encoded)]
    if json:
        print_json(rows)
    else:
        RESULTS.print(_table(rows, concurrency))


def _element(data: bytes) -> str:
    """Encode a BYTES element as perf_analyzer expects it: length, then bytes, in base64."""
    return base64.b64encode(struct.pack("<I", len(data)) + data).decode()


@contextmanager
def _triton(start: Path, model: Path) -> Iterator[str]:
    """Run the peer until the body ends."""
    target = f"127.0.0.1:{_PORT}"
    command = [str(start), str(model), str(_PORT)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            with grpc.insecure_channel(target) as channel:
                grpc.channel_ready_future(channel).result(timeout=120)
            time.sleep(3)  # the port opens before the models are ready
            yield target
        finally:
            process.send_signal(signal.SIGTERM)


def _measure(*arguments: Any) -> dict[str, float]:
    """Run the load generator; return its figures and its own CPU time a request."""
    before, started = _children_s(), time.monotonic()
    try:
        found = drive(*arguments)
    except RuntimeError as error:
        raise SystemExit(str(error)) from None
    took, spent = time.monotonic() - started, _children_s() - before
    return {**found, "client_cpu_ms": 1000 * spent / (found["per_s"] * took)}


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _loops(path: Path, encoded: list[bytes]) -> Iterator[tuple[str, dict[str, float]]]:
    """Time an upper bound for any server: decode, resize and inference in a plain loop on every core."""
    with open_path(path, threads=1) as runtime:
        spec = runtime.manifest.preprocess
        prepared = [prepare(data, spec)[None] for data in encoded[:64]]

        def pixels(number: int) -> None:
            runtime.run(prepared[number % len(prepared)])

        def jpeg(number: int) -> None:
            runtime.run(prepare(encoded[number % len(encoded)], spec)[None])

        for kind, step in (("pixels", pixels), ("jpeg", jpeg)):
            counts, until = [0] * usable_cores(), time.monotonic() + _LOOP_S

            def work(worker: int, step: Any = step, counts: list[int] = counts, until: float = until) -> None:
                while time.monotonic() < until:
                    step(worker * 31 + counts[worker])
                    counts[worker] += 1

            threads = [threading.Thread(target=work, args=(worker,)) for worker in range(usable_cores())]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            yield kind, {"per_s": sum(counts) / _LOOP_S}


def _table(rows: list[dict[str, Any]], concurrency: tuple[int, ...]) -> Table:
    def typical(side: str, kind: str, what: str, count: int | None = None) -> float:
        values = [
            row[what] for row in rows if (row["side"], row["kind"], row.get("concurrency")) == (side, kind, count)
        ]
        return median(values) if values else float("nan")

    title = f"perf_analyzer, gRPC, {usable_cores()} cores shared with it; medians"
    table = Table(
        "input",
        "in flight",
        "unfreeze /s",
        "Triton /s",
        "ratio",
        "p99 ms",
        "Triton p99",
        "ratio",
        "of the limit",
        title=title,
    )
    for kind in ("pixels", "jpeg"):
        loop_ms = 1000 / typical("loop", kind, "per_s")
        for count in concurrency:
            mine, peer = (typical(side, kind, "per_s", count) for side in ("ours", "triton"))
            p99, peer_p99 = (typical(side, kind, "p99_ms", count) for side in ("ours", "triton"))
            # The load generator's CPU time on the same cores counts against the limit.
            limit = 1000 / (loop_ms + typical("ours", kind, "client_cpu_ms", count) / usable_cores())
            figures = (mine, peer, mine / peer, p99, peer_p99, p99 / peer_p99, mine / limit)
            forms = ("{:.0f}", "{:.0f}", "{:.2f}", "{:.1f}", "{:.1f}", "{:.2f}", "{:.2f}")
            table.add_row(kind, str(count), *(form.format(value) for form, value in zip(forms, figures, strict=True)))
    return table


if __name__ == "__main__":
    cyclopts.run(main)
