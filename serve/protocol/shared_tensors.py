"""Tensors of ModelInfer whose contents are in shared memory instead of in the message."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unfreeze.contract.errors import InvalidRequestError
from unfreeze.protos import open_inference_pb2 as pb
from unfreeze.serve.protocol.deserializing import Buffer
from unfreeze.serve.protocol.parameters import nonnegative_integer
from unfreeze.serve.protocol.shared_memory import Region, SharedMemoryRegions

REGION, _SIZE, _OFFSET = "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"
SHARED_MEMORY_PARAMETERS = frozenset({REGION, _SIZE, _OFFSET})


@dataclass(frozen=True, kw_only=True)
class SharedTensor:
    """Where the contents of a tensor are, or are wanted.

    Args:
        region: that contains all of them.
        offset: in the region, in bytes.
        size: in bytes.
    """

    region: Region
    offset: int
    size: int

    def read(self) -> memoryview:
        """Copy the contents.

        Raises:
            InvalidRequestError: the object is gone, has been replaced or truncated, or cannot be read.
        """
        return self.region.read(self.offset, self.size)


def shared_input(
    request: pb.ModelInferRequest, raw: Sequence[Buffer], regions: SharedMemoryRegions
) -> SharedTensor | None:
    """Return where the contents of the input are; None if they are in the message.

    Args:
        request: ModelInfer request; with more or less than one input, it is refused elsewhere.
        raw: its raw contents.
        regions: registered regions.

    Raises:
        ForbiddenError: shared memory is off.
        UnknownRegionError: the region is not registered.
        InvalidRequestError: the parameters are not valid, the contents are too large, or are in the message too.
    """
    if len(request.inputs) != 1:
        return None
    tensor = request.inputs[0]
    shared = _shared_tensor(tensor.name, tensor.parameters, regions)
    if shared is not None and (raw or tensor.HasField("contents")):
        raise InvalidRequestError(f"input {tensor.name!r:.100} is in shared memory, so the request must not contain it")
    return shared


def shared_outputs(request: pb.ModelInferRequest, regions: SharedMemoryRegions) -> dict[str, SharedTensor]:
    """Return where outputs are wanted in shared memory, by name; others are returned in the message.

    Args:
        request: ModelInfer request.
        regions: registered regions.

    Raises:
        ForbiddenError: shared memory is off.
        UnknownRegionError: a region is not registered.
        InvalidRequestError: the parameters are not valid.
    """
    found = ((one.name, _shared_tensor(one.name, one.parameters, regions)) for one in request.outputs)
    return {name: shared for name, shared in found if shared is not None}


def move_outputs(response: pb.ModelInferResponse, wanted: Mapping[str, SharedTensor]) -> None:
    """Move outputs from a response into shared memory.

    Args:
        response: with raw contents; those that are moved are left empty, and parameters say where they are.
        wanted: outputs to move, by name.

    Raises:
        InvalidRequestError: an output is larger than the space for it, or the object cannot be written.
    """
    for index, output in enumerate(response.outputs):
        shared = wanted.get(output.name)
        if shared is None:
            continue
        raw = response.raw_output_contents[index]
        if len(raw) > shared.size:
            raise InvalidRequestError(
                f"output {output.name!r} needs {len(raw):,} bytes of shared memory, but its {_SIZE} is {shared.size:,}"
            )
        shared.region.write(shared.offset, raw)
        output.parameters[REGION].string_param = shared.region.name
        output.parameters[_SIZE].int64_param = len(raw)
        if shared.offset:
            output.parameters[_OFFSET].int64_param = shared.offset
        response.raw_output_contents[index] = b""


def _shared_tensor(
    name: str, parameters: Mapping[str, pb.InferParameter], regions: SharedMemoryRegions
) -> SharedTensor | None:
    if not any(parameter in parameters for parameter in SHARED_MEMORY_PARAMETERS):
        return None
    offset, size = nonnegative_integer(parameters, _OFFSET), nonnegative_integer(parameters, _SIZE)
    if REGION not in parameters or parameters[REGION].WhichOneof("parameter_choice") != "string_param" or not size:
        raise InvalidRequestError(
            f"tensor {name!r:.100} is in shared memory, which needs the name of the {REGION} and a positive {_SIZE}"
        )
    region = regions.find(parameters[REGION].string_param)
    if offset + size > region.size:
        raise InvalidRequestError(
            f"tensor {name!r:.100} has the {_OFFSET} {offset:,} and the {_SIZE} {size:,}, but region "
            f"{region.name!r:.100} has {region.size:,} bytes"
        )
    if size > regions.most_tensor_bytes:
        raise InvalidRequestError(
            f"the {_SIZE} of tensor {name!r:.100} is {size:,}; at most {regions.most_tensor_bytes:,} are allowed "
            "(--max-message-mib)"
        )
    return SharedTensor(region=region, offset=offset, size=size)
