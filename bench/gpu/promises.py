"""Promises about GPUs, and whether measurements keep them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.gpu.part import Finding

_TOLERANCES = {"fp32": 1e-3, "fp16": 1e-2}
_SERVED_SHARE, _HALF_TIMES, _CACHE_TIMES = 0.8, 1.8, 10.0
_HALF_MODEL, _HALF_BATCH = "resnet50", 32
CACHED = "the last block on the cache"
DECODED = "whole network, images decoded"


@dataclass(frozen=True, kw_only=True)
class Promise:
    """A promise.

    Args:
        text: description.
        value: measured value; None if not measured.
        limit: required value.
        most: whether the limit is a maximum instead of a minimum.
    """

    text: str
    value: float | None
    limit: float
    most: bool = False

    @property
    def kept(self) -> bool | None:
        """Whether it was kept; None if not measured. NaN keeps no promise."""
        if self.value is None:
            return None
        return self.value <= self.limit if self.most else self.value >= self.limit


def promises(findings: Sequence[Finding], device: str) -> list[Promise]:
    """Evaluate every promise.

    Args:
        findings: findings of all parts.
        device: device of the server's runtime.
    """
    return [
        *_same_answers(findings, device),
        *_served_shares(findings, device),
        _half_times(findings, device),
        _cache_times(findings),
    ]


def raw_best(findings: Sequence[Finding], model: str, device: str) -> float | None:
    """Return the best images a second of a model's runtime over all batch sizes."""
    rates = [one["per_s"] for one in findings if one["kind"] == "raw" and one["model"] == f"{model} on {device}"]
    return max(rates, default=None)


def limit_of(findings: Sequence[Finding], served: Finding, device: str) -> float | None:
    """Return the limit of any server of a model: its runtime, and for encoded images also the decoding cores."""
    raw = raw_best(findings, served["model"], device)
    if raw is None or served["input"] == "pixels":
        return raw
    decoded = [one["per_s"] for one in findings if one["kind"] == "decode" and one["model"] == served["model"]]
    return min(raw, *decoded) if decoded else None


def _same_answers(findings: Sequence[Finding], device: str) -> Iterator[Promise]:
    agreed = [one for one in findings if one["kind"] == "agree" and one["precision"] in _TOLERANCES]
    if not agreed:
        yield Promise(text=f"same top-1 labels on {device} as on the CPU", value=None, limit=1)
    for one in agreed:
        yield Promise(text=f"{one['model']}: same top-1 labels as on the CPU", value=one["same_top1"], limit=1)
        yield Promise(
            text=f"{one['model']}: largest difference of a probability from the CPU",
            value=one["largest_difference"],
            limit=_TOLERANCES[one["precision"]],
            most=True,
        )


def _served_shares(findings: Sequence[Finding], device: str) -> Iterator[Promise]:
    served = [one for one in findings if one["kind"] == "served"]
    limits = {"pixels": "its runtime's best", "jpeg": "the lesser of its runtime's best and what the cores decode"}
    for kind, text in limits.items():
        busiest = max((one["concurrency"] for one in served if one["input"] == kind), default=0)
        rows = [one for one in served if one["input"] == kind and one["concurrency"] == busiest]
        if not rows:
            yield Promise(text=f"{kind} served: share of {text}", value=None, limit=_SERVED_SHARE)
        for one in rows:
            limit = limit_of(findings, one, device)
            yield Promise(
                text=f"{one['model']}, {kind} served, {busiest} in flight: share of {text}",
                value=None if limit is None else one["per_s"] / limit,
                limit=_SERVED_SHARE,
            )


def _half_times(findings: Sequence[Finding], device: str) -> Promise:
    rates = {one["model"]: one["per_s"] for one in findings if one["kind"] == "raw" and one["batch"] == _HALF_BATCH}
    half, full = (rates.get(f"{_HALF_MODEL} {precision} on {device}") for precision in ("fp16", "fp32"))
    return Promise(
        text=f"{_HALF_MODEL}, batches of {_HALF_BATCH}: fp16 times as fast as fp32",
        value=half / full if half and full else None,
        limit=_HALF_TIMES,
    )


def _cache_times(findings: Sequence[Finding]) -> Promise:
    seconds = {one["source"]: one["seconds"] for one in findings if one["kind"] == "epoch"}
    cached, whole = seconds.get(CACHED), seconds.get(DECODED)
    names = dict.fromkeys(one["model"] for one in findings if one["kind"] == "epoch")
    return Promise(
        text=f"{', '.join(names) or 'training'}: an epoch of the last block on the cache, times as fast as one of the "
        "whole network with decoding",
        value=whole / cached if cached and whole else None,
        limit=_CACHE_TIMES,
    )
