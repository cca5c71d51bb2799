"""Keep layers of an int8 graph in float where that is faster on this machine."""

import math
from collections.abc import Mapping, Sequence

from unfreeze.contract.reporting import Reporter
from unfreeze.export.quantize import Quantizer
from unfreeze.export.speed import Speed, time_graphs

_ALL = "all"
_LEAST_GAIN = 1.03  # less may be noise


def faster_in_float(
    quantizer: Quantizer, shape: tuple[int, int, int], batches: tuple[int, ...], reporter: Reporter
) -> tuple[str, ...]:
    """Return the layers that are better left in float: the depthwise convolutions of one size, or none.

    Int8 kernels of depthwise convolutions are often slower than the float ones; whether that outweighs the conversions
    around them depends on the network. Graphs with and without each size are timed alternately.

    Args:
        quantizer: of the graph.
        shape: height, width and channels of a prepared image.
        batches: the batch sizes to time.
        reporter: shows progress.
    """
    groups = quantizer.depthwise
    if not groups:
        return ()
    graphs = {_ALL: quantizer.graph()} | {size: quantizer.graph(names) for size, names in groups.items()}
    contents = {name: graph.SerializeToString() for name, graph in graphs.items()}
    size = fastest(time_graphs(contents, shape, batches, reporter))
    if size == _ALL:
        return ()
    reporter.info(f"int8 is faster with {len(groups[size])} depthwise convolutions of {size} in float")
    return groups[size]


def fastest(speeds: Mapping[str, Sequence[Speed]]) -> str:
    """Return the graph that is fastest over all batch sizes, and faster than the first by a margin at each.

    Args:
        speeds: of each graph, by name; the first is the one that the others are compared with.
    """
    first = next(iter(speeds))
    better = [name for name, own in speeds.items() if all(one.times_fp32 >= _LEAST_GAIN for one in own)]
    return max(better, key=lambda name: math.prod(one.times_fp32 for one in speeds[name]), default=first)
