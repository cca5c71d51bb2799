"""How many cores, machines and bytes a load takes."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench.simulate.arrivals import DAY_S
from bench.simulate.costs import Costs

_GIGABIT_BYTES = 1e9 / 8
_LOOP_BUSY = 0.6


@dataclass(frozen=True, kw_only=True)
class SizingOptions:
    """Assumptions about a load and the machines. None is measured; change them to yours.

    Args:
        peak_to_mean: busiest minute of a day relative to the mean.
        zones: failure domains; the replicas that are left carry the peak when one is lost.
        replica_cores: cores of a replica.
        machine_cores: cores of a machine.
        batch_utilization: share of the cores that batch jobs keep busy.
        result_bytes: bytes of a row of a batch job's Parquet file: name, label, score and version (`parquet.py`).
        core_hour: price of a core-hour, in any currency.
        device_hour: price of an accelerator-hour.
    """

    peak_to_mean: float = 2.0
    zones: int = 3
    replica_cores: int = 4
    machine_cores: int = 32
    batch_utilization: float = 0.9
    result_bytes: float = 26.0
    core_hour: float = 0.04
    device_hour: float = 0.0


def size_online(costs: Costs, per_replica: float, images_a_day: float, options: SizingOptions) -> dict[str, Any]:
    """Size a service that answers requests of one JPEG.

    Args:
        costs: CPU time of the stages, and sizes.
        per_replica: requests a second of a replica at which latency is still acceptable.
        images_a_day: the load.
        options: assumptions.
    """
    mean = images_a_day / DAY_S
    peak = options.peak_to_mean * mean
    replicas = replicas_for(peak, per_replica, options)
    cores = replicas * options.replica_cores
    return {
        "images_a_day": images_a_day,
        "mean_per_s": mean,
        "peak_per_s": peak,
        "replicas": replicas,
        "cores": cores,
        "machines": options.zones * math.ceil(cores / options.zones / options.machine_cores),
        "jpeg_gbit_s": peak * costs.image_bytes / _GIGABIT_BYTES,
        "pixels_gbit_s": peak * costs.pixels_bytes / _GIGABIT_BYTES,
        "cost_a_day": 24 * cores * options.core_hour,
    }


def replicas_for(peak: float, per_replica: float, options: SizingOptions) -> int:
    """Count the replicas that carry the peak when one zone is lost; at least two.

    Args:
        peak: requests a second.
        per_replica: requests a second of a replica.
        options: assumptions.
    """
    for_peak = math.ceil(peak / per_replica)
    if options.zones == 1:
        return max(2, for_peak)
    return options.zones * math.ceil(for_peak / (options.zones - 1))


def frontends_for(costs: Costs, cores: int) -> int:
    """Count the front ends of a server whose event loops are at most 60 % busy when all cores are.

    Args:
        costs: CPU time of the stages.
        cores: cores of the server.
    """
    return max(1, math.ceil(cores / costs.request_s() * costs.loop_s / _LOOP_BUSY))


def size_batch(costs: Costs, images_a_day: float, options: SizingOptions) -> dict[str, Any]:
    """Size jobs that classify files and write Parquet, without deadlines.

    Args:
        costs: CPU time of decoding and of the runtime, and sizes.
        images_a_day: the load.
        options: assumptions.
    """
    image_s = costs.mean_decode_s + costs.batch_s(1)
    cores = math.ceil(images_a_day / DAY_S * image_s / options.batch_utilization)
    return {
        "images_a_day": images_a_day,
        "cores": cores,
        "machines": math.ceil(cores / options.machine_cores),
        "read_gbit_s": images_a_day / DAY_S * costs.image_bytes / _GIGABIT_BYTES,
        "parquet_gb_a_day": images_a_day * options.result_bytes / 1e9,
        "cost_a_day": 24 * images_a_day / DAY_S * image_s / options.batch_utilization * options.core_hour,
    }


def magnitudes(first: int = 6, last: int = 10) -> Iterator[float]:
    """Iterate over powers of ten."""
    return (10.0**power for power in range(first, last + 1))
