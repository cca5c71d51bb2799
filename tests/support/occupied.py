"""Fill the queue of a server."""

import time

import grpc

from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub


def occupy(stub: ClassifierStub, large: pb.PredictRequest, too_many: pb.PredictRequest) -> grpc.Future:
    """Send a large request and return when the server has accepted it.

    Args:
        stub: stub of the server.
        large: a request that is executed for a while.
        too_many: a request that the server rejects while the large one is executed.
    """
    call = stub.Predict.future(large)
    while True:
        time.sleep(0.02)  # the next request must not be received, and accepted, before the large one
        if stub.Predict.future(too_many).code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
            return call
        if call.done():
            call = stub.Predict.future(large)
