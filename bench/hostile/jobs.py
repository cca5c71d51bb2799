"""The calls of a fuzzing run; the same seed gives the same calls."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.message import DecodeError, Message

from bench.hostile.images import seed_images
from bench.hostile.messages import MODEL, Method, encoded_request, methods, mutate_message, seed_messages
from bench.hostile.mutate import mutate
from unfreeze.protos import unfreeze_pb2 as classifier

_OTHER = "a" * len(MODEL)
_MOST_IN_STREAM = 4


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call.

    Args:
        method: method to call.
        messages: serialized or mutated messages; one, or several for a stream.
        may: statuses that this call may have in addition to those allowed for every call.
    """

    method: Method
    messages: tuple[bytes, ...]
    may: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Job:
    """Calls that are sent one after the other.

    Args:
        kind: "image" or "message".
        calls: calls; those of an image must all get the same answer.
        named: prefix of a refusal of the image.
    """

    kind: str
    calls: tuple[Call, ...]
    named: str = ""


def image_jobs(count: int, seed: int) -> Iterator[Job]:
    """Mutate valid images and send each in three ways; some are placed between valid ones.

    Args:
        count: number of images.
        seed: random seed.
    """
    rng, seeds = random.Random(f"images {seed}"), list(seed_images().values())  # noqa: S311 - no secret
    by_name = {method.path.rpartition("/")[2]: method for method in methods()}
    for _ in range(count):
        images = [mutate(rng.choice(seeds), seeds, rng)]
        if rng.random() < 0.2:  # noqa: PLR2004
            images = [seeds[0], *images, seeds[0]]
        requests = {
            "raw": encoded_request(images),
            "typed": encoded_request(images, typed=True),
            "predict": classifier.PredictRequest(model=MODEL, images=images),
        }
        calls = [
            Call(
                method=by_name["Predict" if way == "predict" else "ModelInfer"], messages=(request.SerializeToString(),)
            )
            for way, request in requests.items()
        ]
        yield Job(kind="image", calls=tuple(calls), named="image 2 of 3: " if images[1:] else "image 1 of 1: ")


def message_jobs(count: int, seed: int) -> Iterator[Job]:
    """Mutate valid messages of every method and send them to it or, sometimes, to another.

    Args:
        count: number of messages.
        seed: random seed.
    """
    rng, images = random.Random(f"messages {seed}"), list(seed_images().values())[:6]  # noqa: S311 - no secret
    every, seeds = methods(), seed_messages(images)
    others = [message.SerializeToString() for group in seeds.values() for message in group]
    weights = [5 if method.path.endswith(("Infer", "Predict", "PredictStream")) else 1 for method in every]
    for _ in range(count):
        (method,) = rng.choices(every, weights)
        takes = method.takes if rng.random() < 0.9 else rng.choice(every).takes  # noqa: PLR2004
        number = rng.randint(1, _MOST_IN_STREAM) if method.streams else 1
        messages = [mutate_message(rng.choice(seeds[takes]), others, rng) for _ in range(number)]
        if method.administers:  # the model must still be there at the end
            messages = [message.replace(MODEL.encode(), _OTHER.encode()) for message in messages]
        call = Call(method=method, messages=tuple(messages), may=_may(method, messages))
        yield Job(kind="message", calls=(call,))


def _may(method: Method, messages: list[bytes]) -> frozenset[str]:
    """List the additional statuses that a call may get."""
    parsed = [_parsed(method.takes, message) for message in messages]
    limited = any("timeout" in getattr(message, "parameters", ()) for message in parsed)
    of_method = {
        "SystemSharedMemoryRegister": ["ALREADY_EXISTS", "PERMISSION_DENIED"],
        "CudaSharedMemoryRegister": ["UNIMPLEMENTED"],
    }.get(method.path.rpartition("/")[2], ["PERMISSION_DENIED"] * method.administers)
    return frozenset(["DEADLINE_EXCEEDED"] * limited + of_method)


def _parsed(takes: type[Message], data: bytes) -> Message | None:
    try:
        return takes.FromString(data)
    except DecodeError:
        return None
