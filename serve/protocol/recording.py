"""Which calls may have their images recorded."""

import grpc

from unfreeze.serve.protocol.request_ids import request_id
from unfreeze.serve.recording.recorder import Record, Recorder


def recording_of(recorder: Recorder | None, context: grpc.aio.ServicerContext) -> Record | None:
    """Return what receives the answer to a call; None if its images may not be stored.

    Args:
        recorder: keeps images; None keeps none.
        context: the call, whose metadata say what its caller allows.
    """
    return None if recorder is None else recorder.recording(context.invocation_metadata(), request_id.get)
