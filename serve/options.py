"""Server options, validated at construction."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from unfreeze.contract.cores import usable_cores
from unfreeze.contract.errors import OptionsError
from unfreeze.contract.images.opening import LARGEST_MAX_PIXELS, MAX_PIXELS
from unfreeze.contract.options import check_ranges
from unfreeze.contract.traffic import traffic_of_options
from unfreeze.serve.runtimes.registry import RuntimeName, find_runtime, runtime_summaries, specific_options
from unfreeze.serve.security.binding import is_loopback, is_unix_target
from unfreeze.serve.security.tls import TlsFiles
from unfreeze.serve.security.unix_socket import UnixSocket

_RANGES = {
    "port": (0, 65_535),
    "http": (0, 65_535),
    "frontends": (1, 256),
    "metrics_port": (0, 65_535),
    "drift_window": (0, 10_000_000),
    "record_share": (0, 1),
    "record_days": (1 / 24, 36_500),
    "record_max_mib": (1, 1_073_741_824),
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
_CORES_PER_FRONTEND_CPU, _CORES_PER_FRONTEND, _MAX_AUTO_FRONTENDS = 8, 4, 8
_PREFIX = re.compile(r"/|/?[^/\0]{1,200}")
# The sections of `unfreeze serve --help`, in this order.
_MODELS = Parameter(group=Group.create_ordered("Models"))
_NETWORK = Parameter(group=Group.create_ordered("Network"))
_EXECUTION = Parameter(group=Group.create_ordered("Execution"))
_LIMITS = Parameter(group=Group.create_ordered("Limits"))
_SECURITY = Parameter(group=Group.create_ordered("Security"))
_MONITORING = Parameter(group=Group.create_ordered("Monitoring"))
_RECORDING = Parameter(group=Group.create_ordered("Recording"))


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Options of a server.

    Args:
        repository: folder of the model repository.
        versions: number of newest versions of each model to serve; 0 for all.
        split: shares of a model's versions in the requests that name none, such as flowers=3:95,4:5; once for each
            model.
        shadow: version that also classifies copies of a share of the requests, in percent, such as flowers=4:10; once
            for each model.
        poll_s: seconds between checks for new versions; 0 to disable them.
        admin: let clients load and unload models.
        host: address to listen on; 127.0.0.1 accepts connections from this machine only.
        port: gRPC port; 0 for any free port.
        uds: also listen on a Unix socket with this path, for programs of this machine; without TLS.
        uds_mode: permissions of the socket's file in octal; clients must be allowed to write to it.
        uds_only: do not listen on --host and --port.
        http: also serve HTTP on this port, with a page to try the models at /; 0 for any free port, which is logged;
            needs unfreeze[http].
        frontends: processes that accept requests and decode images, in front of the one that executes the models;
            "auto" for a number that fits the machine; only on Linux.
        shared_memory: let clients register shared memory objects whose names begin with this prefix, for the contents
            of requests and responses; / for all names; off by default.
        drain_s: seconds that accepted requests may take to finish after SIGTERM.
        device: runtime that executes the models.
        instances: batches of a model executed at the same time; 0 to measure the fastest number.
        threads: CPU threads per instance; 0 to measure the fastest number.
        gpu_memory_mib: limit of ONNX Runtime's GPU memory per model, in MiB; 0 for no limit; only for --device cuda.
        cuda_graphs: launch each batch size as one CUDA graph; only for --device cuda.
        cudnn_search: benchmark all cuDNN algorithms when a model is loaded, which takes longer; only for
            --device cuda.
        max_batch: images in the largest batch; 0 for the value in each model's manifest.
        max_delay_ms: milliseconds that a batch may wait for more images; 0 to start as soon as an instance is free.
        max_queue: images that may wait per model; further requests fail with RESOURCE_EXHAUSTED.
        max_queue_mib: MiB of encoded and preprocessed images that may wait per model.
        max_message_mib: size limit of a request, in MiB.
        max_pixels: pixel limit of an image; larger images are rejected.
        tls_cert: PEM file with the server's certificate chain; reloaded when it changes.
        tls_key: PEM file with the private key, without a passphrase.
        tls_client_ca: PEM file with CA certificates; clients must present a certificate signed by one of them.
        token_file: file with one token per line; clients must send one of them.
        insecure: allow addresses that other machines can reach, and tokens, without TLS.
        metrics: serve Prometheus metrics over HTTP at /metrics.
        metrics_host: address of the metrics server, which does not encrypt.
        metrics_port: port of the metrics server; 0 for any free port, which is logged.
        drift_window: latest images of each model whose distance from its validation images is measured; 0 for none.
        tracing: export OpenTelemetry traces, configured by the OTEL_* variables; needs unfreeze[tracing].
        record: keep encoded images with what was answered in this folder, or below a URL such as s3://BUCKET/FOLDER
            (needs unfreeze[batch]), for `unfreeze review`: those that the model is unsure of, and some of the others.
        record_consent: whose images may be stored: of requests that say x-unfreeze-store: yes, or of all requests that
            do not say no.
        record_share: share of the images without a reason that are kept, 0 to 1.
        record_days: days after which an image is deleted.
        record_max_mib: MiB of recorded images; of more, those that were drawn at random are deleted first.

    Raises:
        OptionsError: a value is out of range, two options contradict each other, or the server would be reachable from
            other machines without TLS.
    """

    repository: Annotated[Path, _MODELS]
    versions: Annotated[int, _MODELS] = 1
    split: Annotated[tuple[str, ...], _MODELS] = ()
    shadow: Annotated[tuple[str, ...], _MODELS] = ()
    poll_s: Annotated[float, _MODELS] = 5.0
    admin: Annotated[bool, _MODELS] = True
    host: Annotated[str, _NETWORK] = "127.0.0.1"
    port: Annotated[int, _NETWORK] = 8001
    uds: Annotated[Path | None, _NETWORK] = None
    uds_mode: Annotated[str, _NETWORK] = "600"
    uds_only: Annotated[bool, _NETWORK] = False
    http: Annotated[int | None, _NETWORK] = None
    frontends: Annotated[int | Literal["auto"], _NETWORK] = 1
    shared_memory: Annotated[str | None, _NETWORK] = None
    drain_s: Annotated[float, _NETWORK] = 30.0
    device: Annotated[
        RuntimeName, _EXECUTION, Parameter(help=f"runtime that executes the models: {runtime_summaries()}.")
    ] = "cpu"
    instances: Annotated[int, _EXECUTION] = 0
    threads: Annotated[int, _EXECUTION] = 0
    gpu_memory_mib: Annotated[int, _EXECUTION] = 0
    cuda_graphs: Annotated[bool, _EXECUTION] = False
    cudnn_search: Annotated[bool, _EXECUTION] = False
    max_batch: Annotated[int, _EXECUTION] = 0
    max_delay_ms: Annotated[float, _EXECUTION] = 0.0
    max_queue: Annotated[int, _LIMITS] = 1024
    max_queue_mib: Annotated[int, _LIMITS] = 512
    max_message_mib: Annotated[int, _LIMITS] = 64
    max_pixels: Annotated[int, _LIMITS] = MAX_PIXELS
    tls_cert: Annotated[Path | None, _SECURITY] = None
    tls_key: Annotated[Path | None, _SECURITY] = None
    tls_client_ca: Annotated[Path | None, _SECURITY] = None
    token_file: Annotated[Path | None, _SECURITY] = None
    insecure: Annotated[bool, _SECURITY] = False
    metrics: Annotated[bool, _MONITORING] = True
    metrics_host: Annotated[str, _MONITORING] = "127.0.0.1"
    metrics_port: Annotated[int, _MONITORING] = 8002
    drift_window: Annotated[int, _MONITORING] = 1000
    tracing: Annotated[bool, _MONITORING] = False
    record: Annotated[str | None, _RECORDING] = None
    record_consent: Annotated[Literal["request", "all"], _RECORDING] = "request"
    record_share: Annotated[float, _RECORDING] = 0.01
    record_days: Annotated[float, _RECORDING] = 30.0
    record_max_mib: Annotated[int, _RECORDING] = 1024

    @property
    def frontends_used(self) -> int:
        """Number of front-end processes."""
        if self.frontends != "auto":
            return self.frontends
        cores = usable_cores() // (
            _CORES_PER_FRONTEND_CPU if find_runtime(self.device).uses_cpu else _CORES_PER_FRONTEND
        )
        return min(max(1, cores), _MAX_AUTO_FRONTENDS) if sys.platform == "linux" else 1

    @property
    def tls_files(self) -> TlsFiles | None:
        """The files of TLS; None without TLS."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        return TlsFiles(cert=self.tls_cert, key=self.tls_key, client_ca=self.tls_client_ca)

    @property
    def unix_socket(self) -> UnixSocket | None:
        """The Unix socket to listen on; None without one."""
        return None if self.uds is None else UnixSocket(self.uds, self.uds_mode)

    @property
    def shared_memory_prefix(self) -> str | None:
        """What the names of shared memory objects must begin with, without the slash; None if there are to be none."""
        return None if self.shared_memory is None else self.shared_memory.removeprefix("/")

    def __post_init__(self) -> None:
        """Validate the options."""
        check_ranges({name: value for name, value in vars(self).items() if value != "auto"}, _RANGES)
        if self.frontends_used > 1 and sys.platform != "linux":
            raise OptionsError("--frontends needs Linux: the processes share memory that has no name")
        if self.frontends_used > 1 and self.uds_only:
            raise OptionsError("--uds-only works with one process, which the socket belongs to: leave --frontends out")
        if not self.host or is_unix_target(self.host):
            raise OptionsError(
                f"--host must be a host name or an IP address, got {self.host!r}; --uds listens on a Unix socket"
            )
        if self.unix_socket is None and self.uds_only:
            raise OptionsError("--uds-only also needs --uds")
        traffic_of_options(self.split, self.shadow)
        _check_exposure(self)
        _check_shared_memory(self)
        _check_device(self)
        if self.record == "":  # of a variable that is not set
            raise OptionsError("--record is empty; give a folder or a URL, or leave it out")
        if self.record is None and self.record_consent == "all":
            raise OptionsError("--record-consent applies to --record; give both, or none of them")


def _check_device(options: ServeOptions) -> None:
    runtime = find_runtime(options.device, "--device")
    for option, runtimes in specific_options().items():
        if getattr(options, option) and option not in runtime.options:
            raise OptionsError(
                f"--{option.replace('_', '-')} applies only to --device {' or '.join(runtimes)}, got --device "
                f"{options.device}"
            )
    if options.cuda_graphs and (options.poll_s or options.admin):
        # CUDA rejects some calls of all threads while a graph is captured, which happens when a version is loaded.
        raise OptionsError(
            "--cuda-graphs does not allow loading versions while others are served: add --poll-s 0 and --no-admin"
        )


def _check_shared_memory(options: ServeOptions) -> None:
    if options.shared_memory is None:
        return
    if sys.platform != "linux":
        raise OptionsError("--shared-memory needs Linux")
    if not _PREFIX.fullmatch(options.shared_memory):
        raise OptionsError(
            "--shared-memory must be the beginning of names of shared memory objects, such as unfreeze_, or / to allow "
            f"all, got {options.shared_memory!r}"
        )
    if not options.admin:
        raise OptionsError("--shared-memory lets clients register objects, which --no-admin forbids: give one of them")


def _check_exposure(options: ServeOptions) -> None:
    if (options.tls_cert is None) != (options.tls_key is None):
        given, missing = ("--tls-cert", "--tls-key") if options.tls_key is None else ("--tls-key", "--tls-cert")
        raise OptionsError(f"{given} also needs {missing}")
    if options.tls_client_ca is not None and options.tls_cert is None:
        raise OptionsError("--tls-client-ca also needs --tls-cert and --tls-key")
    if options.tls_cert is not None or options.insecure:
        return
    uses_network = options.http is not None or not options.uds_only
    if options.token_file is not None and uses_network:
        raise OptionsError(
            "--token-file without TLS sends tokens in plain text: add --tls-cert and --tls-key, --uds-only if all "
            "clients use the Unix socket of --uds, or --insecure if a proxy or a mesh encrypts"
        )
    hosts = {"--host": options.host} if uses_network else {}
    hosts |= {"--metrics-host": options.metrics_host}
    for option, host in hosts.items():
        if not is_loopback(host):
            raise OptionsError(
                f"{option} {host} is reachable from other machines and TLS is not configured: add --tls-cert and "
                "--tls-key, or --insecure if a proxy or a mesh encrypts; 127.0.0.1 accepts only local connections"
            )
