"""Several versions behind one name, under load: shares, what a shadow costs its neighbors, and how rules decide.

python -m bench.traffic trial --images photographs/
python -m bench.traffic shadow --images photographs/
python -m bench.traffic cost --before ../before --images photographs/
python -m bench.traffic chance

The load generator shares the machine with the server. Conditions that are compared are measured in turn.
"""

import asyncio
import itertools
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import cyclopts
import grpc
import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper, numpy_helper
from rich.table import Table

from bench.endure import frontend_arguments, read_requests, served
from bench.load import Call, at_a_rate, callers, percentile_ms
from bench.models import publish_linear, publish_random
from unfreeze.console import REMARKS, RESULTS, print_json
from unfreeze.contract.model.manifest import INPUT, METADATA_KEY, OUTPUT
from unfreeze.contract.model.onnx_metadata import read_manifest
from unfreeze.contract.model.repository import ModelRepository
from unfreeze.contract.model.seal import UNSEALED, sealed
from unfreeze.contract.traffic import Rule
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub
from unfreeze.serve.traffic.counts import RequestCounts, ShadowCounts
from unfreeze.serve.traffic.rule import Trial, judge

app = cyclopts.App(help=__doc__)
_MODEL, _CALLERS, _BRIGHTEST = "random", 8, 112
_COPIES_S = 2.5  # until copies that wait are compared or dropped
_Json = Annotated[bool, cyclopts.Parameter(negative="")]
_Row = dict[str, Any]


@app.command
def trial(*, images: Path, seconds: float = 10, keys: int = 300, frontends: int = 1, json: _Json = False) -> None:
    """Divide requests, keep callers with their version, copy to a version that fails, and take it back.

    Version 2 is a copy of version 1, a mobilenet_v3_small with random weights; version 3 fails for bright images.

    Args:
        images: folder of JPEG files.
        seconds: duration of one measurement.
        keys: number of callers with a key of their own.
        frontends: number of front-end processes.
        json: print JSON instead of text.
    """
    requests = read_requests(images)
    with _three_versions(requests, frontends) as (target, stub):
        rows = [_split(stub, target, requests, seconds), _sticky(stub, requests, keys)]
        rows += [_failing(stub, target, requests, seconds), _rule(stub, target, requests)]
    if json:
        print_json(rows)
        return
    for row in rows:
        RESULTS.print(row, markup=False)


@app.command
def shadow(
    *,
    images: Path,
    seconds: float = 4,
    rounds: int = 12,
    rates: tuple[float, ...] = (0.5,),
    frontends: int = 1,
    json: _Json = False,
) -> None:
    """Compare the latency of callers with a shadow of 20 % and without, in turn, under closed and open load.

    The ratio of the 99th percentiles, each of all rounds together, has an interval from resampled rounds (bootstrap).

    Args:
        images: folder of JPEG files.
        seconds: duration of one measurement.
        rounds: number of times that each condition is measured, in turn.
        rates: open loads, as shares of the peak throughput; eight callers without pauses are the first load.
        frontends: number of front-end processes.
        json: print JSON instead of a table.
    """
    requests = read_requests(images)
    with _three_versions(requests, frontends) as (target, stub):
        _set(stub, split={"1": 100})
        best = len(asyncio.run(callers(target, requests, _CALLERS, seconds))) / seconds
        rows = [_told(_compare(stub, target, requests, seconds, rounds, rate, best)) for rate in (0.0, *rates)]
    if json:
        print_json(rows)
        return
    columns = "requests /s", "p50 ms", "p99 ms", "copies compared", "copies dropped", "p99, with / without"
    table = Table("load", "copied", *columns)
    for row in rows:
        for copied in ("0 %", "20 %"):
            table.add_row(
                row["load"], copied, *map(str, row[copied].values()), row["ratio"] if copied == "20 %" else ""
            )
    RESULTS.print(table)


@contextmanager
def _three_versions(requests: list[bytes], frontends: int) -> Iterator[tuple[str, ClassifierStub]]:
    with TemporaryDirectory() as folder:
        repository = _publish(Path(folder))
        with served(repository, *frontend_arguments(frontends)) as server:
            asyncio.run(callers(server.target, requests, _CALLERS, 3))
            with grpc.insecure_channel(server.target) as channel:
                yield server.target, ClassifierStub(channel)


def _publish(folder: Path) -> Path:
    repository = publish_random("mobilenet_v3_small", folder, _MODEL)
    content = ModelRepository(repository).path(_MODEL, 1).read_bytes()
    manifest = read_manifest(content)
    ModelRepository(repository).publish(_MODEL, content, manifest)
    failing = _with_guard(onnx.load_from_string(content))
    unproven = {"golden": (), "sha256": UNSEALED}
    changed = type(manifest)(**{**vars(manifest), **unproven})
    del failing.metadata_props[:]
    failing.metadata_props.add(key=METADATA_KEY, value=changed.to_json())
    ModelRepository(repository).publish(_MODEL, sealed(failing.SerializeToString()), changed)
    return repository


def _with_guard(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let a graph fail for images that are brighter than a table is long."""
    graph = model.graph
    for node in graph.node:
        node.output[:] = ["unguarded" if name == OUTPUT else name for name in node.output]
    values = {"axes": [1, 2, 3], "column": [1]}
    graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.int64), f"guard_{name}") for name, value in values.items()
    )
    graph.initializer.append(numpy_helper.from_array(np.zeros(_BRIGHTEST, np.float32), "guard_table"))
    graph.node.extend(
        [
            helper.make_node("Cast", [INPUT], ["guard_values"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["guard_values", "guard_axes"], ["guard_brightness"], keepdims=0),
            helper.make_node("Cast", ["guard_brightness"], ["guard_index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["guard_table", "guard_index"], ["guard_found"]),
            helper.make_node("Unsqueeze", ["guard_found", "guard_column"], ["guard"]),
            helper.make_node("Add", ["unguarded", "guard"], [OUTPUT]),
        ]
    )
    onnx.checker.check_model(model)
    return model


def _set(stub: ClassifierStub, **fields: Any) -> pb.Traffic:
    found: pb.Traffic = stub.SetTraffic(pb.SetTrafficRequest(model=_MODEL, **fields))
    return found


def _get(stub: ClassifierStub) -> pb.Traffic:
    found: pb.Traffic = stub.GetTraffic(pb.GetTrafficRequest(model=_MODEL))
    return found


def _split(stub: ClassifierStub, target: str, requests: list[bytes], seconds: float) -> _Row:
    """Eight callers without keys, 95 to 5: how far is the share from 5 %, in standard deviations."""
    _set(stub, split={"1": 95, "2": 5})
    calls = asyncio.run(callers(target, requests, _CALLERS, seconds))
    found = Counter(call.version for call in calls)
    total = len(calls)
    deviations = (found["2"] - 0.05 * total) / (total * 0.05 * 0.95) ** 0.5
    share = found["2"] / total
    return _told({"what": "split 95:5", "requests": total, "share of 2": share, "standard deviations": deviations})


def _sticky(stub: ClassifierStub, requests: list[bytes], keys: int) -> _Row:
    """Callers with keys, 50 to 50: how many ever see another version than before."""
    _set(stub, split={"1": 50, "2": 50})
    seen = []
    for number in range(keys):
        metadata = (("x-unfreeze-sticky", f"caller-{number}"),)
        sent = (requests[(number + shift) % len(requests)] for shift in range(4))
        answers = (stub.Predict(pb.PredictRequest.FromString(one), metadata=metadata).version for one in sent)
        seen.append(set(answers))
    versions = Counter("".join(sorted(one)) for one in seen)
    changed = sum(len(one) > 1 for one in seen)
    return _told(
        {"what": "sticky 50:50", "keys": keys, "got 1": versions["1"], "got 2": versions["2"], "both": changed}
    )


def _compare(
    stub: ClassifierStub, target: str, requests: list[bytes], seconds: float, rounds: int, rate: float, best: float
) -> _Row:
    calls: dict[int, list[list[Call]]] = {0: [], 20: []}
    copies: Counter[str] = Counter()
    for number in range(rounds):
        for copied in ((0, 20), (20, 0))[number % 2]:
            _set(stub, split={"1": 100}, shadow={"2": copied} if copied else {})
            load = (
                at_a_rate(target, requests, rate * best, seconds)
                if rate
                else callers(target, requests, _CALLERS, seconds)
            )
            calls[copied].append(asyncio.run(load))
            if copied:
                time.sleep(_COPIES_S)
                copies.update(_copies(stub, "2"))
    found = _ratio(calls[20], calls[0])
    row: _Row = {"load": f"{rate:.0%} of the peak" if rate else f"{_CALLERS} callers", "ratio": found}
    for copied, measured in calls.items():
        together = list(itertools.chain.from_iterable(measured))
        numbers = _latencies(together, rounds * seconds)
        row[f"{copied} %"] = {
            **{name: round(numbers[name], 1) for name in ("per_s", "p50_ms", "p99_ms")},
            **{name: copies[name] if copied else 0 for name in ("compared", "dropped")},
        }
        row["failed"] = row.get("failed", 0) + numbers["failed"]
    return row


def _ratio(first: list[list[Call]], second: list[list[Call]]) -> str:
    """Return the ratio of two 99th percentiles, and where it lies in 90 % of 2,000 resamples of the rounds."""
    times = [[np.array([call.took_s for call in calls]) for calls in rounds] for rounds in (first, second)]

    def ratio(chosen: np.ndarray) -> float:
        high = [np.percentile(np.concatenate([rounds[one] for one in chosen]), 99) for rounds in times]
        return float(high[0] / high[1])

    rng, count = np.random.default_rng(0), len(first)
    resampled = [ratio(rng.integers(0, count, count)) for _ in range(2000)]
    low, high = np.percentile(resampled, [5, 95])
    return f"{ratio(np.arange(count)):.2f} ({low:.2f} to {high:.2f})"


def _latencies(calls: list[Call], seconds: float) -> _Row:
    failed = sum(call.status != "OK" for call in calls)
    percentiles = {f"p{percent}_ms": percentile_ms(calls, percent) for percent in (50, 99)}
    return {"per_s": len(calls) / seconds, "failed": failed, **percentiles}


def _copies(stub: ClassifierStub, version: str) -> _Row:
    (shadow,) = [one.shadow for one in _get(stub).versions if one.version == version] or [pb.TrafficShadow()]
    compared = shadow.same + shadow.different
    return {
        "compared": compared,
        "different": shadow.different,
        "dropped": shadow.dropped,
        "failed copies": shadow.failed,
    }


def _failing(stub: ClassifierStub, target: str, requests: list[bytes], seconds: float) -> _Row:
    """Copy every request to a version that fails for bright images: no caller may notice."""
    _set(stub, split={"1": 100}, shadow={"3": 100})
    statuses: Counter[str] = Counter()
    for rate in (0, 20):
        load = at_a_rate(target, requests, rate, seconds) if rate else callers(target, requests, _CALLERS, seconds)
        statuses += Counter(f"{call.status} by {call.version}" for call in asyncio.run(load))
    time.sleep(_COPIES_S)
    return _told({"what": "a shadow that fails", "callers": dict(statuses), **_copies(stub, "3")})


def _rule(stub: ClassifierStub, target: str, requests: list[bytes]) -> _Row:
    """Give a failing version 10 %: how long until it is taken back, and how many requests did it fail."""
    rule = pb.TrafficRule(max_error_rate=0.01, action="both", minimum_images=1000)
    _set(stub, split={"1": 90, "3": 10}, rule=rule)
    calls = asyncio.run(callers(target, requests, _CALLERS, 12))
    failed = [call for call in calls if call.status != "OK"]
    took_s = failed[-1].began - failed[0].began if failed else float("nan")
    found = _get(stub)
    facts = {"requests": len(calls), "failed": len(failed), "seconds from the first failure to the last": took_s}
    return _told({"what": "take-back", **facts, "decision": found.decision.action, "reason": found.decision.reason})


def _told(row: _Row) -> _Row:
    REMARKS.print(row, markup=False)
    return row


@app.command
def cost(
    *, before: Path, images: Path, seconds: float = 8, rounds: int = 5, frontends: int = 1, json: _Json = False
) -> None:
    """Compare a server without a split with that of another checkout, in turn: a model that takes almost no time.

    Args:
        before: folder of the other checkout.
        images: folder of JPEG files.
        seconds: duration of one measurement.
        rounds: number of measurements of each.
        frontends: number of front-end processes.
        json: print JSON instead of a table.
    """
    requests, rows = read_requests(images)[:16], []
    with TemporaryDirectory() as folder:
        repository = publish_linear(Path(folder))
        for number in range(rounds):
            order = ("before", before), ("now", Path.cwd())
            for name, checkout in order if number % 2 else order[::-1]:
                with _served_by(checkout, repository, frontends) as (target, processes):
                    asyncio.run(callers(target, requests, _CALLERS, 2))
                    began = _cpu_s(processes)
                    calls = asyncio.run(callers(target, requests, _CALLERS, seconds))
                    cpu_ms = 1000 * (_cpu_s(processes) - began) / len(calls)
                    rows.append(_told({"server": name, "cpu_ms": cpu_ms, **_latencies(calls, seconds)}))
    if json:
        print_json(rows)
        return
    table = Table("server", "requests /s", "CPU ms a request", "p50 ms", "p99 ms", title="medians")
    for name in ("before", "now"):
        found = [row for row in rows if row["server"] == name]
        figures = [median(row[what] for row in found) for what in ("per_s", "cpu_ms", "p50_ms", "p99_ms")]
        table.add_row(name, f"{figures[0]:.1f}", f"{figures[1]:.3f}", f"{figures[2]:.2f}", f"{figures[3]:.2f}")
    RESULTS.print(table)


@app.command
def chance(
    *, rate: float = 0.01, requests: int = 5000, every: int = 20, trials: int = 4000, json: _Json = False
) -> None:
    """Simulate how often a version is taken back that fails as often as allowed, or some times as often.

    Args:
        rate: error rate that the rule allows.
        requests: requests of the version.
        every: requests between two looks at the counts.
        trials: number of simulated trials of each error rate.
        json: print JSON instead of a table.
    """
    rule, rng, rows = Rule(max_error_rate=rate), np.random.default_rng(0), []
    looks = np.arange(every, requests + 1, every)
    for factor in (0.5, 1.0, 1.5, 2.0, 5.0):
        errors = np.cumsum(rng.random((trials, requests)) < factor * rate, axis=1)[:, looks - 1]
        taken = [_first_look(rule, looks, found) for found in errors]
        after = [look for look in taken if look is not None]
        shown = int(median(after)) if after else None
        rows.append({"error rate": factor * rate, "taken back": len(after) / trials, "requests until then": shown})
    if json:
        print_json(rows)
        return
    table = Table(*rows[0], title=f"at most {rate:.1%} allowed, {requests:,} requests, looked at every {every}")
    for row in rows:
        table.add_row(f"{row['error rate']:.2%}", f"{row['taken back']:.2%}", str(row["requests until then"]))
    RESULTS.print(table)


def _first_look(rule: Rule, looks: np.ndarray, errors: np.ndarray) -> int | None:
    """Return after how many requests a version is taken back; None if it is not."""
    for look, count in zip(looks.tolist(), errors.tolist(), strict=True):
        canary = RequestCounts(answered=look - count, errors=count, images=look - count)
        if judge(rule, Trial(stable=RequestCounts(), canary=canary, shadow=ShadowCounts())) is not None:
            return int(look)
    return None


@contextmanager
def _served_by(checkout: Path, repository: Path, frontends: int) -> Iterator[tuple[str, list[psutil.Process]]]:
    """Run the server of a checkout; yields its address and its processes."""
    command = [sys.executable, "-m", "unfreeze.command", "serve", "--repository", repository, "--port", "0"]
    command += ["--no-metrics", "--instances", "1", "--threads", "1", *frontend_arguments(frontends)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=checkout) as process:
        line = process.stdout.readline() if process.stdout else ""
        seen = psutil.Process(process.pid)
        try:
            yield line.split()[-1], [seen, *seen.children()]
        finally:
            process.terminate()


def _cpu_s(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


if __name__ == "__main__":
    app()
