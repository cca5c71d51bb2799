"""Servers of `unfreeze.v1.Classifier` without a model: they return the bytes of each image as its label."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc

from unfreeze.contract.errors import UnfreezeError
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierServicer, add_ClassifierServicer_to_server
from unfreeze.serve.status import status_of


class Echo(ClassifierServicer):
    """Returns the bytes of each image as its label, and records the calls.

    Args:
        before: called with the number of the call, from 1, and its images; may raise an error or block.
    """

    def __init__(self, before: Callable[[int, list[bytes]], None] = lambda _number, _images: None) -> None:
        self.before = before
        self.times: list[float] = []
        self.sizes: list[int] = []
        self.metadata: list[dict[str, str]] = []

    def Predict(self, request: pb.PredictRequest, context: grpc.ServicerContext) -> pb.PredictResponse:  # noqa: N802
        """Return the labels, or end the call with the status of an error as the real server does."""
        self.times.append(time.monotonic())
        self.sizes.append(len(request.images))
        self.metadata.append({key: value for key, value in context.invocation_metadata() if isinstance(value, str)})
        try:
            self.before(len(self.times), list(request.images))
        except UnfreezeError as error:
            status = status_of(error)
            context.set_trailing_metadata(status.trailing_metadata)
            context.abort(status.code, status.message)
        labels = [pb.ScoredLabel(label=image[:20].decode(), score=1) for image in request.images]
        return pb.PredictResponse(predictions=[pb.Prediction(labels=[label]) for label in labels])


@contextmanager
def echoing(
    servicer: Echo, credentials: grpc.ServerCredentials | None = None, max_bytes: int = 64 * 2**20, port: int = 0
) -> Iterator[str]:
    """Run a server in this process; yields its target."""
    options = [("grpc.max_receive_message_length", max_bytes), ("grpc.so_reuseport", 0)]
    server = grpc.server(ThreadPoolExecutor(16), options=options)
    add_ClassifierServicer_to_server(servicer, server)
    address = f"127.0.0.1:{port}"
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()
