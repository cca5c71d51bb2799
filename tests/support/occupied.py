"""Servers whose room is taken."""

import time

import grpc

from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub


def occupy(stub: ClassifierStub, large: pb.PredictRequest, too_many: pb.PredictRequest) -> grpc.Future:
    """Send a large request, and come back when it is inside.

    Args:
        stub: of the server.
        large: takes room for a while.
        too_many: has room until then, and none beside it.
    """
    call = stub.Predict.future(large)
    while True:
        time.sleep(0.02)  # it takes longer to come than what is asked next, which would leave it no room
        if stub.Predict.future(too_many).code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
            return call
        if call.done():
            call = stub.Predict.future(large)
