"""The findings of `bench.gpu`, as a table or as JSON."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from bench.gpu.part import FAILED, LEFT_OUT, Finding
from bench.gpu.promises import Promise, limit_of, promises

_COLUMNS = ("part", "what", "/s", "p50 ms", "p99 ms", "of the limit", "more")
_JUDGED = {True: "kept", False: "broken", None: "not measured"}
_Row = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of a benchmark.

    Args:
        machine: description of the machine.
        device: "cuda" or "cpu".
        findings: findings of all parts.
    """

    machine: Mapping[str, str]
    device: str
    findings: Sequence[Finding]

    @property
    def promises(self) -> list[Promise]:
        """The promises with their measured values."""
        return promises(self.findings, self.device)

    @property
    def exit_code(self) -> int:
        """1 if something failed or, on a GPU, a promise was broken; else 0, whatever was left out."""
        failed = any(one["kind"] == FAILED for one in self.findings)
        broken = self.device == "cuda" and any(promise.kept is False for promise in self.promises)
        return int(failed or broken)

    def document(self) -> dict[str, Any]:
        """Return everything as JSON-compatible data."""
        rows = [one for one in self.findings if one["kind"] not in (LEFT_OUT, FAILED)]
        return {
            "machine": dict(self.machine),
            "rows": rows,
            "promises": [asdict(promise) | {"kept": promise.kept} for promise in self.promises],
            "failed": [one for one in self.findings if one["kind"] == FAILED],
            "left_out": [one for one in self.findings if one["kind"] == LEFT_OUT],
        }

    def table(self) -> Table:
        """Return everything as a table."""
        title = "\n".join(f"{name}: {value}" for name, value in self.machine.items())
        table = Table(*_COLUMNS, title=Text(title), title_justify="left")
        sections = [self._measured(), self._promised(), self._listed(FAILED), self._listed(LEFT_OUT)]
        for section in sections:
            for row in section:
                table.add_row(*map(Text, row))
            table.add_section()
        return table

    def _measured(self) -> Iterator[_Row]:
        for one in self.findings:
            if one["kind"] in _SHOWN:
                limit = limit_of(self.findings, one, self.device) if one["kind"] == "served" else None
                share = "" if limit is None else f"{one['per_s'] / limit:.2f}"
                times = (_number(one, name) for name in ("per_s", "p50_ms", "p99_ms"))
                what, more = _SHOWN[one["kind"]](one)
                yield (one["kind"], what, *times, share, more)

    def _promised(self) -> Iterator[_Row]:
        for promise in self.promises:
            value = "" if promise.value is None else f"{promise.value:.3g}"
            limit = f"{'at most' if promise.most else 'at least'} {promise.limit:g}"
            judged = _JUDGED[promise.kept] if self.device == "cuda" else "not evaluated on a CPU"
            yield ("promise", promise.text, "", "", "", value, f"{limit}: {judged}")

    def _listed(self, kind: str) -> Iterator[_Row]:
        for one in self.findings:
            if one["kind"] == kind:
                yield (kind, one["what"], "", "", "", "", one["reason"])


def _number(one: Finding, name: str) -> str:
    value = one.get(name)
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004


def _served(one: Finding) -> tuple[str, str]:
    more = f"queue {one['queue_ms']:.3g}, decode {one['decode_ms']:.3g}, infer {one['infer_ms']:.3g} ms; "
    more += f"batches of {one['mean_batch']:.3g}"
    if one["gpu_percent"] is not None:
        more += f"; GPU busy {one['gpu_percent']:.0f} %"
    refused = "".join(f"; {count} {status}" for status, count in one["failed"].items())
    return f"{one['model']}, {one['input']}, {one['concurrency']} in flight", more + refused


def _agreed(one: Finding) -> tuple[str, str]:
    more = f"same top-1 label {one['same_top1']:.3f}, of {one['labels_seen']} labels; largest difference "
    return f"{one['model']} against the CPU, {one['images']} images", f"{more}{one['largest_difference']:.1e}"


_SHOWN: dict[str, Callable[[Finding], tuple[str, str]]] = {
    "tests": lambda one: (
        "tests marked gpu",
        f"{one['passed']} passed, {one['failed']} failed, {one['skipped']} skipped",
    ),
    "exported": lambda one: (one["model"], f"{one['seconds']:.1f} s, {one['mb']:.1f} MB"),
    "raw": lambda one: (f"{one['model']}, batches of {one['batch']}", ""),
    "agree": _agreed,
    "decode": lambda one: (f"preprocessing of {one['model']}", f"{one['processes']} processes"),
    "served": _served,
    "witnessed": lambda one: (f"{one['model']}, pixels, {one['concurrency']} in flight", "by perf_analyzer"),
    "tuned": lambda one: (
        f"{one['model']} in {one['precision']}, trained from {one['cut']}",
        f"peak memory {one['peak_mb']:.0f} MB",
    ),
    "epoch": lambda one: (f"{one['model']}: {one['source']}", f"{one['seconds']:.3g} s"),
}
