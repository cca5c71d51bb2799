"""Parameters of requests and tensors of the Open Inference Protocol."""

from collections.abc import Mapping

from unfreeze.contract.errors import InvalidRequestError
from unfreeze.protos import open_inference_pb2 as pb


def nonnegative_integer(parameters: Mapping[str, pb.InferParameter], name: str) -> int:
    """Read an integer parameter; 0 if absent. Clients send signed and unsigned integers.

    Args:
        parameters: of a request or a tensor.
        name: of the parameter.

    Raises:
        InvalidRequestError: it is negative, or no integer.
    """
    if name not in parameters:
        return 0
    kind = parameters[name].WhichOneof("parameter_choice")
    value: object = getattr(parameters[name], kind) if kind else None
    if kind not in ("int64_param", "uint64_param") or not isinstance(value, int) or value < 0:
        raise InvalidRequestError(f"parameter {name!r} must be a nonnegative integer, got {value!r:.50}")
    return value
