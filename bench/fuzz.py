"""Mutated images and messages against a real server: every call gets a documented status, and the server stays intact.

python -m bench.fuzz --images 20000 --messages 20000 --seed 0
python -m bench.fuzz --frontends 2
"""

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import cyclopts
from rich.table import Table

from bench.hostile.attack import Tally, attack, save
from bench.hostile.images import COLORS, draw, encode
from bench.hostile.jobs import Job, image_jobs, message_jobs
from bench.hostile.messages import MODEL
from bench.hostile.model import publish_colors
from bench.hostile.shared import OPTIONS, shared_object
from unfreeze.console import RESULTS, TerminalReporter
from unfreeze.serve.client.blocking import Client

_OUT = Path(__file__).parent / "out" / "fuzz"
_MAX_GROWTH_MIB = 64


def main(
    *,
    images: int = 20_000,
    messages: int = 20_000,
    seed: int = 0,
    repository: Path | None = None,
    out: Path = _OUT,
    frontends: int = 1,
) -> None:
    """Send mutated images in three ways each, and mutated messages to every method; exit with 1 on a violation.

    Every call must be answered in time, with a status that docs/refusals.md documents, in words that reveal nothing
    about the machine. The server must survive, must not grow, and must still answer correctly at the end.

    Args:
        images: number of mutated images.
        messages: number of mutated messages.
        seed: random seed; the same seed sends the same bytes.
        repository: folder with a model `colors`; created if not given.
        out: folder for the server's log and for the inputs of violations.
        frontends: number of front-end processes.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, TerminalReporter() as reporter:
        models = repository or publish_colors(Path(folder) / "models")
        with _server(models, out / "server.log", frontends) as (process, target):
            jobs = {"images": image_jobs(images, seed), "messages": message_jobs(messages, seed)}
            counts = {"images": images, "messages": messages}
            tallies = {
                kind: fuzz(target, process.pid, models, each, reporter.track(kind, counts[kind]))
                for kind, each in jobs.items()
            }
            right = process.poll() is None and answers_correctly(target)
    for kind, tally in tallies.items():
        save(tally.violations, out / kind)
    if not _verdict(tallies, right=right, out=out):
        raise SystemExit(1)


def fuzz(
    target: str, server: int, repository: Path, jobs: Iterable[Job], advance: Callable[[int], None] = lambda _: None
) -> Tally:
    """Send jobs and return what was observed.

    Args:
        target: "host:port".
        server: process id.
        repository: the repository that it serves.
        jobs: calls to make.
        advance: called with 1 after each job.
    """
    secrets = str(repository), str(Path.cwd()), sys.prefix
    with shared_object():
        return asyncio.run(attack(target, server, secrets, jobs, advance))


def answers_correctly(target: str) -> bool:
    """Return whether a server classifies intact images correctly."""
    images = [encode(draw(color), "PNG") for color in COLORS.values()]
    with Client(target) as client:
        return [answer[0].label for answer in client.predict(images, model=MODEL)] == list(COLORS)


def grown_mib(tally: Tally) -> float:
    """Return how much the server's memory grew after warm-up, in MiB, between the medians of two windows."""
    tenth = max(1, len(tally.rss_mib) // 10)
    warm, last = tally.rss_mib[2 * tenth : 4 * tenth] or tally.rss_mib, tally.rss_mib[-2 * tenth :]
    return median(last) - median(warm)


@contextmanager
def _server(repository: Path, log: Path, frontends: int) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    command = [sys.executable, "-m", "unfreeze.command", "serve", "--repository", str(repository), "--port", "0"]
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [*command, "--no-metrics", *OPTIONS, "--frontends", str(frontends)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        line = process.stdout.readline() if process.stdout else ""
        if not line.startswith("serving "):
            raise SystemExit(f"the server did not start; see {log}")
        try:
            yield process, line.split()[-1]
        finally:
            process.terminate()


def _verdict(tallies: dict[str, Tally], *, right: bool, out: Path) -> bool:
    table = Table("what", "status", "calls", title="answers")
    facts = Table("what", "calls", "calls per s", "slowest (s)", "RSS at start", "warm", "end (MiB)", "violations")
    for kind, tally in tallies.items():
        for (_, status), count in tally.statuses.most_common():
            table.add_row(kind, status, f"{count:,}")
        rss = tally.rss_mib
        warm = rss[-1] - grown_mib(tally)
        numbers = f"{tally.calls:,}", f"{tally.calls / tally.seconds:.0f}", f"{tally.slowest_s:.2f}"
        facts.add_row(kind, *numbers, *(f"{one:.0f}" for one in (rss[0], warm, rss[-1])), f"{len(tally.violations):,}")
    RESULTS.print(table, facts)
    broken = sum(len(tally.violations) for tally in tallies.values())
    growth = max(grown_mib(tally) for tally in tallies.values())
    whole = broken == 0 and right and growth <= _MAX_GROWTH_MIB
    RESULTS.print(
        f"{'passed' if whole else 'FAILED'}; violations: {broken}{f', kept in {out}' if broken else ''}; memory grew "
        f"by {growth:.0f} MiB; intact images are classified {'correctly' if right else 'INCORRECTLY'} at the end",
        markup=False,
    )
    return whole


if __name__ == "__main__":
    cyclopts.run(main)
