"""What a server may be told, validated once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from contract.errors import OptionsError
from contract.options import check_ranges
from contract.preprocess import LARGEST_MAX_PIXELS, MAX_PIXELS


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How to serve.

    Args:
        repository: the model repository's folder.
        host: the address to listen on; 127.0.0.1 is this machine alone.
        port: to listen on; 0 for any free one, which is then printed.
        device: "cpu", "cuda", or "tensorrt" for the engines beside the models.
        versions: of each model are served, the newest; 0 for all.
        poll_s: how often the repository is looked at for new versions, in seconds; 0 for never.
        instances: batches of a model that are executed at once; 0 for what is measured to be fastest.
        threads: of the runtime for each of them, on a CPU; 0 for what is measured to be fastest.
        max_batch: the largest batch; 0 for what each model's manifest says.
        max_delay_ms: how long a batch may wait to fill; at 0 it leaves the moment the runtime is free.
        max_queue: pictures that may wait, for each model; more are refused.
        max_queue_mib: MiB of pictures, encoded and prepared, that may wait for each model; more are refused.
        max_message_mib: the largest request, in MiB.
        max_pixels: of one picture; larger ones are refused.
        drain_s: how long work in flight may take after SIGTERM, in seconds.

    Raises:
        OptionsError: a value is out of its range.
    """

    repository: Path
    host: str = "127.0.0.1"
    port: int = 8001
    device: Literal["cpu", "cuda", "tensorrt"] = "cpu"
    versions: int = 1
    poll_s: float = 5.0
    instances: int = 0
    threads: int = 0
    max_batch: int = 0
    max_delay_ms: float = 0.0
    max_queue: int = 1024
    max_queue_mib: int = 512
    max_message_mib: int = 64
    max_pixels: int = MAX_PIXELS
    drain_s: float = 30.0

    def __post_init__(self) -> None:
        """Validate once, where it is built."""
        ranges = {
            "port": (0, 65_535),
            "versions": (0, 1000),
            "poll_s": (0, 86_400),
            "instances": (0, 256),
            "threads": (0, 1024),
            "max_batch": (0, 4096),
            "max_delay_ms": (0, 10_000),
            "max_queue": (1, 10_000_000),
            "max_queue_mib": (1, 1_048_576),
            "max_message_mib": (1, 2047),
            "max_pixels": (1, LARGEST_MAX_PIXELS),
            "drain_s": (0, 86_400),
        }
        check_ranges(vars(self), ranges)
        if not self.host or self.host.startswith("unix:"):
            raise OptionsError(f"--host is a name or an address to listen on, found {self.host!r}")
