"""Requests a second of a server that records, and of one that does not, in turn."""

import asyncio
from contextlib import ExitStack
from pathlib import Path

from bench.images import write_textures
from bench.load import callers, requests_of
from bench.models import publish_random
from unfreeze.contract.reporting import Reporter
from unfreeze.demo.serving import serving

_CALLERS = 8
_DIFFERENT = 4000  # images that are sent in turn; none is the same as another
_EACH = 10


def measure_cost(
    folder: Path, shares: tuple[float, ...], rounds: int, seconds: float, reporter: Reporter
) -> dict[float, list[float]]:
    """Measure the throughput with recording as a share of that without.

    Args:
        folder: for everything that is written.
        shares: of the images that are recorded, one server for each; everybody consents.
        rounds: of each server, in turn with the one that does not record.
        seconds: duration of a round.
        reporter: receives a message for each round.

    Returns:
        By share, the quotient of each round.
    """
    repository = publish_random("mobilenet_v3_small", folder)
    requests = requests_of(_different(folder))
    options = "--poll-s", "0", "--threads", "1", "--instances", "1"
    ratios: dict[float, list[float]] = {share: [] for share in shares}

    def rate(target: str) -> float:
        calls = asyncio.run(callers(target, requests, _CALLERS, seconds))
        return sum(call.status == "OK" for call in calls) / seconds

    with ExitStack() as stack:
        plain = stack.enter_context(serving(repository, *options))
        recording = {
            share: stack.enter_context(serving(repository, *options, *_flags(folder, share))) for share in shares
        }
        for target in (plain, *recording.values()):
            rate(target)  # warm up
        for number in range(rounds):
            for share, target in recording.items():
                pair = {one: rate(one) for one in ((plain, target) if number % 2 else (target, plain))}
                ratios[share].append(pair[target] / pair[plain])
                text = f"{pair[plain]:.1f} a second without, {pair[target]:.1f} with a share of {share:g}"
                reporter.info(f"{text}: {ratios[share][-1]:.3f}")
    return ratios


def _flags(folder: Path, share: float) -> tuple[str, ...]:
    place = str(folder / f"recorded-{share:g}")
    return "--record", place, "--record-consent", "all", "--record-share", str(share), "--record-max-mib", "256"


def _different(folder: Path) -> list[bytes]:
    """Return images of which no two have the same bytes: decoders ignore what follows the end of a JPEG file."""
    write_textures(folder / "images", _EACH)
    images = [path.read_bytes() for path in sorted((folder / "images").rglob("*.jpg"))]
    return [images[number % len(images)] + number.to_bytes(4) for number in range(_DIFFERENT)]
