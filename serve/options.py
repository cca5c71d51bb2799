"""What a server may be told, validated once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unfreeze.contract.errors import OptionsError
from unfreeze.contract.images.preprocess import LARGEST_MAX_PIXELS, MAX_PIXELS
from unfreeze.contract.options import check_ranges
from unfreeze.serve.security.binding import is_this_machine_alone


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
        gpu_memory_mib: MiB of the GPU's memory that ONNX Runtime may take for each model; 0 for all there is.
        cuda_graphs: on "cuda", launch each size of batch as one CUDA graph.
        cudnn_search: on "cuda", time every algorithm of cuDNN while a model is loaded, which takes longer.
        max_batch: the largest batch; 0 for what each model's manifest says.
        max_delay_ms: how long a batch may wait to fill; at 0 it leaves the moment the runtime is free.
        max_queue: images that may wait, for each model; more are refused.
        max_queue_mib: MiB of images, encoded and prepared, that may wait for each model; more are refused.
        max_message_mib: the largest request, in MiB.
        max_pixels: of one image; larger ones are refused.
        drain_s: how long work in flight may take after SIGTERM, in seconds.
        tls_cert: PEM file of the server's certificate and of those between it and its authority; re-read as it changes.
        tls_key: PEM file of its key, without a passphrase.
        tls_client_ca: PEM file of authorities; clients must present a certificate of one of them.
        token_file: a file of tokens, one a line; callers must send one of them.
        admin: whether callers may load and unload models.
        insecure: listen without TLS where other machines can reach it, and take tokens without TLS.
        metrics: whether Prometheus can ask for metrics, over HTTP at /metrics.
        metrics_host: the address that it asks; they are in the clear, so 127.0.0.1 unless said otherwise.
        metrics_port: the port that it asks; 0 for any free one, which is then logged.
        tracing: send OpenTelemetry traces, as the OTEL_* variables say; needs the extra `tracing`.

    Raises:
        OptionsError: a value is out of its range, or others could read along and nobody said that they may.
    """

    repository: Path
    host: str = "127.0.0.1"
    port: int = 8001
    device: Literal["cpu", "cuda", "tensorrt"] = "cpu"
    versions: int = 1
    poll_s: float = 5.0
    instances: int = 0
    threads: int = 0
    gpu_memory_mib: int = 0
    cuda_graphs: bool = False
    cudnn_search: bool = False
    max_batch: int = 0
    max_delay_ms: float = 0.0
    max_queue: int = 1024
    max_queue_mib: int = 512
    max_message_mib: int = 64
    max_pixels: int = MAX_PIXELS
    drain_s: float = 30.0
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    token_file: Path | None = None
    admin: bool = True
    insecure: bool = False
    metrics: bool = True
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 8002
    tracing: bool = False

    def __post_init__(self) -> None:
        """Validate once, where it is built."""
        ranges = {
            "port": (0, 65_535),
            "metrics_port": (0, 65_535),
            "versions": (0, 1000),
            "poll_s": (0, 86_400),
            "instances": (0, 256),
            "threads": (0, 1024),
            "gpu_memory_mib": (0, 16_777_216),
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
        _check_exposure(self)
        _check_device(self)


def _check_device(options: ServeOptions) -> None:
    for option in ("cuda_graphs", "cudnn_search", "gpu_memory_mib"):
        if getattr(options, option) and options.device != "cuda":
            raise OptionsError(f"--{option.replace('_', '-')} is for --device cuda, not for {options.device}")
    if options.cuda_graphs and (options.poll_s or options.admin):
        # CUDA refuses some calls of every thread while a graph is captured, as it is when a version is loaded.
        raise OptionsError("--cuda-graphs cannot load versions while others answer: give --poll-s 0 and --no-admin too")


def _check_exposure(options: ServeOptions) -> None:
    if (options.tls_cert is None) != (options.tls_key is None):
        missing = "--tls-key" if options.tls_key is None else "--tls-cert"
        raise OptionsError(f"--tls-cert and --tls-key go together, a certificate and its key; give {missing} too")
    if options.tls_client_ca is not None and options.tls_cert is None:
        raise OptionsError("--tls-client-ca asks clients for certificates: give --tls-cert and --tls-key too")
    if options.tls_cert is not None or options.insecure:
        return
    if options.token_file is not None:
        raise OptionsError(
            "--token-file without TLS sends tokens in the clear: give --tls-cert and --tls-key, or --insecure where "
            "something else encrypts"
        )
    for option, host in {"--host": options.host, "--metrics-host": options.metrics_host}.items():
        if not is_this_machine_alone(host):
            raise OptionsError(
                f"other machines can reach {option} {host}, and without TLS read along: give --tls-cert and "
                "--tls-key, or --insecure where something else encrypts; 127.0.0.1 is this machine alone"
            )
