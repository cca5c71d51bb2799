"""What is sent, one after the other, and the same for the same seed."""

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
        method: that is called.
        messages: serialized, or nearly; one, or several for a stream.
        may: names of statuses that this call may have, beside those of any.
    """

    method: Method
    messages: tuple[bytes, ...]
    may: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Job:
    """Calls that go one after the other.

    Args:
        kind: "image" or "message".
        calls: for an image, the ways to send it, which are to be answered alike.
        named: what a refusal of the image begins with.
    """

    kind: str
    calls: tuple[Call, ...]
    named: str = ""


def image_jobs(count: int, seed: int) -> Iterator[Job]:
    """Change good images, and send each in three ways; some stand between good ones.

    Args:
        count: how many.
        seed: of chance.
    """
    chance, seeds = random.Random(f"images {seed}"), list(seed_images().values())  # noqa: S311 - no secret
    by_name = {method.path.rpartition("/")[2]: method for method in methods()}
    for _ in range(count):
        images = [mutate(chance.choice(seeds), seeds, chance)]
        if chance.random() < 0.2:  # noqa: PLR2004
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
    """Change good messages of every method, and send them there or, now and then, to another.

    Args:
        count: how many.
        seed: of chance.
    """
    chance, images = random.Random(f"messages {seed}"), list(seed_images().values())[:6]  # noqa: S311 - no secret
    every, seeds = methods(), seed_messages(images)
    others = [message.SerializeToString() for group in seeds.values() for message in group]
    weights = [5 if method.path.endswith(("Infer", "Predict", "PredictStream")) else 1 for method in every]
    for _ in range(count):
        (method,) = chance.choices(every, weights)
        takes = method.takes if chance.random() < 0.9 else chance.choice(every).takes  # noqa: PLR2004
        number = chance.randint(1, _MOST_IN_STREAM) if method.streams else 1
        messages = [mutate_message(chance.choice(seeds[takes]), others, chance) for _ in range(number)]
        if method.administers:  # the model is to be there when all is over
            messages = [message.replace(MODEL.encode(), _OTHER.encode()) for message in messages]
        call = Call(method=method, messages=tuple(messages), may=_may(method, messages))
        yield Job(kind="message", calls=(call,))


def _may(method: Method, messages: list[bytes]) -> frozenset[str]:
    """Say which statuses a call asks for by itself."""
    parsed = [_parsed(method.takes, message) for message in messages]
    limited = any("timeout" in getattr(message, "parameters", ()) for message in parsed)
    return frozenset(["DEADLINE_EXCEEDED"] * limited + ["PERMISSION_DENIED"] * method.administers)


def _parsed(takes: type[Message], data: bytes) -> Message | None:
    try:
        return takes.FromString(data)
    except DecodeError:
        return None
