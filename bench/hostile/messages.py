"""Mutated messages of every method: fields with unusual values, and malformed bytes."""

import random
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from bench.hostile.mutate import mutate
from unfreeze.protos import open_inference_pb2 as inference
from unfreeze.protos import unfreeze_pb2 as classifier

MODEL = "colors"
OBJECT, _REGION, OBJECT_BYTES = "unfreeze-fuzz", "region", 2 * 32 * 32 * 3  # a shared memory object
_FILES = (inference, classifier, health_pb2, reflection_pb2)
_ENDLESS = ("Watch",)
_STRINGS = ("", MODEL, "unknown", "../../etc/passwd", "\0", "é" * 300, "a" * 5000, "1", "-1", "[red]%s{0}\n")
_PARAMETERS = (
    "timeout",
    "priority",
    "classification",
    "shared_memory_region",
    "shared_memory_byte_size",
    "shared_memory_offset",
)
_BYTES = (b"", b"\0", b"\xff" * 9, bytes(5000))
_REALS = (0.0, -1.0, 1e308, float("inf"), float("nan"))
_WHOLE = (0, 1, 2, -1, 255, 256, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1, -(2**31), -(2**63))
_BITS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64),
}


@dataclass(frozen=True, kw_only=True)
class Method:
    """One gRPC method of the server.

    Args:
        path: full path of the method.
        takes: message class of its requests.
        gives: message class of its responses.
        streams: whether it is bidirectionally streaming.
    """

    path: str
    takes: type[Message]
    gives: type[Message]
    streams: bool

    @property
    def administers(self) -> bool:
        """Whether it loads or unloads models."""
        return "RepositoryModel" in self.path


def methods() -> tuple[Method, ...]:
    """List every method of every service except those that never end by themselves."""
    services = [service for file in _FILES for service in file.DESCRIPTOR.services_by_name.values()]
    found = [method for service in services for method in service.methods if method.name not in _ENDLESS]
    return tuple(_method(descriptor) for descriptor in found)


def _method(descriptor: MethodDescriptor) -> Method:
    return Method(
        path=f"/{descriptor.containing_service.full_name}/{descriptor.name}",
        takes=GetMessageClass(descriptor.input_type),
        gives=GetMessageClass(descriptor.output_type),
        streams=descriptor.client_streaming,
    )


def seed_messages(images: Sequence[bytes]) -> dict[type[Message], tuple[Message, ...]]:
    """Build valid requests for every method."""
    seeds = {method.takes: (_named(method.takes(), MODEL),) for method in methods()}
    for method in methods():
        if method.administers:  # the model must still be there at the end
            seeds[method.takes] = (_named(method.takes(), "unknown"),)
    single = tuple(classifier.PredictRequest(model=MODEL, images=[one], top_k=3) for one in images)
    several = classifier.PredictRequest(model=MODEL, version="1", images=images)
    reflected = reflection_pb2.ServerReflectionRequest
    return seeds | {
        classifier.PredictRequest: (*single, several),
        inference.ModelInferRequest: tuple(_infer_requests(images)),
        inference.SystemSharedMemoryRegisterRequest: (
            inference.SystemSharedMemoryRegisterRequest(name=_REGION, key=OBJECT, byte_size=OBJECT_BYTES),
        ),
        reflected: (
            reflected(list_services=""),
            reflected(file_containing_symbol="unfreeze.v1.Classifier"),
            reflected(file_by_filename="unfreeze/protos/unfreeze.proto"),
        ),
    }


def _named(message: Message, name: str) -> Message:
    for field in ("name", "model", "model_name", "service"):
        if field in message.DESCRIPTOR.fields_by_name:
            setattr(message, field, name)
    return message


def _infer_requests(images: Sequence[bytes]) -> Iterator[inference.ModelInferRequest]:
    yield from (encoded_request([image]) for image in images)
    yield encoded_request(images, typed=True)
    pixels = inference.ModelInferRequest(model_name=MODEL, raw_input_contents=[bytes(2 * 32 * 32 * 3)], id="seven")
    pixels.inputs.add(name="pixels", datatype="UINT8", shape=[2, 32, 32, 3])
    pixels.outputs.add(name="probabilities").parameters["classification"].int64_param = 2
    yield pixels
    limited = inference.ModelInferRequest.FromString(pixels.SerializeToString())
    limited.parameters["timeout"].int64_param = 10_000_000
    limited.parameters["priority"].uint64_param = 1
    yield limited
    yield _shared_request()


def _shared_request() -> inference.ModelInferRequest:
    """Build a request whose input and output are in shared memory."""
    request = inference.ModelInferRequest(model_name=MODEL)
    tensor = request.inputs.add(name="pixels", datatype="UINT8", shape=[1, 32, 32, 3])
    for one, size in ((tensor, OBJECT_BYTES // 2), (request.outputs.add(name="probabilities"), 12)):
        one.parameters["shared_memory_region"].string_param = _REGION
        one.parameters["shared_memory_byte_size"].int64_param = size
        one.parameters["shared_memory_offset"].int64_param = OBJECT_BYTES // 4
    return request


def encoded_request(images: Sequence[bytes], *, typed: bool = False) -> inference.ModelInferRequest:
    """Build a request of encoded images, in raw or typed contents."""
    request = inference.ModelInferRequest(model_name=f"{MODEL}.encoded")
    tensor = request.inputs.add(name="image", datatype="BYTES", shape=[len(images), 1])
    if typed:
        tensor.contents.bytes_contents.extend(images)
    else:
        request.raw_input_contents.append(b"".join(struct.pack("<I", len(one)) + one for one in images))
    return request


def mutate_message(seed: Message, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Mutate a message's fields, its bytes, or both.

    Args:
        seed: a valid message.
        others: serialized messages that parts are spliced from.
        rng: random generator.
    """
    message, way = type(seed).FromString(seed.SerializeToString()), rng.randrange(10)
    for _ in range(rng.randint(1, 3) if way < 6 else 0):  # noqa: PLR2004
        _change_field(message, rng)
    data = message.SerializeToString()
    if way == 9:  # noqa: PLR2004 - groups that are never closed
        return data + b"\x0b" * rng.choice((1, 50, 5000))
    return mutate(data, others, rng) if way > 3 else data  # noqa: PLR2004


def _change_field(message: Any, rng: random.Random) -> None:
    """Give one field of a message, or of a nested one, another value."""
    if not message.DESCRIPTOR.fields:
        return
    field = rng.choice(message.DESCRIPTOR.fields)
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, values = rng.choice((*_STRINGS, *_PARAMETERS)), field.message_type.fields_by_name["value"]
        if values.message_type is None:
            value[key] = _odd(values, rng)
        else:
            _change_field(value[key], rng)
    elif field.is_repeated:
        _change_repeated(value, field, rng)
    elif field.message_type is not None:
        _change_field(value, rng)
    else:
        setattr(message, field.name, _odd(field, rng))


def _change_repeated(values: Any, field: FieldDescriptor, rng: random.Random) -> None:
    if rng.random() < 0.2:  # noqa: PLR2004
        del values[:]
    elif field.message_type is None:
        values.extend(_odd(field, rng) for _ in range(rng.choice((1, 2, 2000))))
    elif values and rng.random() < 0.7:  # noqa: PLR2004
        _change_field(rng.choice(values), rng)
    else:
        _change_field(values.add(), rng)


def _odd(field: FieldDescriptor, rng: random.Random) -> Any:
    kind = field.cpp_type
    if kind in _BITS:
        low, high = _BITS[kind]
        return rng.choice([number for number in _WHOLE if low <= number < high])
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return rng.choice(_BYTES if field.type == FieldDescriptor.TYPE_BYTES else _STRINGS)
    return rng.choice(_REALS) if kind != FieldDescriptor.CPPTYPE_BOOL else rng.random() < 0.5  # noqa: PLR2004
