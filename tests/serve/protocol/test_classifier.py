"""`unfreeze.v1.Classifier`, called with our client, compared with in-process inference."""

import asyncio
import io
import random
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image
from support.images import draw_image, encode
from support.servers import server_thread

from unfreeze.contract.errors import DrainingError, ImageError, InvalidRequestError, ModelError, UnknownModelError
from unfreeze.export.run import Published
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub
from unfreeze.serve.client.blocking import Client
from unfreeze.serve.client.local import LocalClassifier

pytestmark = pytest.mark.xdist_group("serve")


@pytest.fixture(scope="module")
def client(target: str) -> Iterator[Client]:
    """A client of the shared server."""
    with Client(target) as connected:
        yield connected


def test_server_and_local_model_return_the_same_predictions(
    client: Client, published: Published, images: list[bytes], tmp_path: Path
) -> None:
    """Encoded images and files, by server and in-process: the same labels, scores and order."""
    files = [tmp_path / f"{number}.bin" for number in range(len(images))]
    for file, image in zip(files, images, strict=True):
        file.write_bytes(image)
    with LocalClassifier(published.path) as local:
        expected = local.predict(images, top_k=3)
        assert local.predict(files, top_k=3) == expected
        assert local.predict([]) == []
    for sources in (images, files, [str(file) for file in files]):
        served = client.predict(sources, model="colors", top_k=3)
        for one, other in zip(served, expected, strict=True):
            assert [(item.label, item.index) for item in one] == [(item.label, item.index) for item in other]
            np.testing.assert_allclose([item.score for item in one], [item.score for item in other], atol=1e-5)
    assert client.predict([]) == []
    assert len({predictions[0].label for predictions in expected}) > 1, "all images have the same label"


def test_top_k_is_limited_to_the_number_of_labels(client: Client, images: list[bytes]) -> None:
    """A larger `top_k` returns all labels, and their scores sum to 1."""
    (predictions,) = client.predict(images[:1], top_k=50)
    assert sorted(one.label for one in predictions) == ["blue", "green", "red"]
    scores = [one.score for one in predictions]
    assert sum(scores) == pytest.approx(1, abs=1e-5)
    assert scores == sorted(scores, reverse=True)


def test_many_images_are_sent_in_several_requests_in_order(client: Client, images: list[bytes]) -> None:
    """Results of more images than fit into one request are in the order of the images."""
    assert client.predict(images * 9, top_k=1) == client.predict(images, top_k=1) * 9


def test_server_errors_are_raised_as_our_error_classes(client: Client, images: list[bytes], tmp_path: Path) -> None:
    """An error of the server is raised by the client with the same class and message."""
    with pytest.raises(InvalidRequestError, match=r"image 2 of 3: .*not an image"):
        client.predict([images[0], b"not an image", images[1]])
    with pytest.raises(UnknownModelError, match="unknown model 'unknown'; loaded models: colors"):
        client.predict(images[:1], model="unknown")
    with pytest.raises(UnknownModelError, match="unknown version '7' of model colors; loaded versions: 1"):
        client.predict(images[:1], version="7")
    (tmp_path / "bad.jpg").write_bytes(b"not an image")
    (tmp_path / "good.jpg").write_bytes(images[0])
    with pytest.raises(InvalidRequestError, match=r"bad\.jpg: image 1 of 9: "):
        client.predict([*[tmp_path / "good.jpg"] * 32, tmp_path / "bad.jpg", *[tmp_path / "good.jpg"] * 8])
    for top_k in (0, -1, 5_000_000_000):
        with pytest.raises(InvalidRequestError, match=r"top_k must be between 1 and"):
            client.predict(images[:1], top_k=top_k)
    with pytest.raises(ImageError, match=r"cannot read .*missing\.jpg: No such file"):
        client.predict([tmp_path / "missing.jpg"])
    with (
        Client("127.0.0.1:1") as other,
        pytest.raises(DrainingError, match=r"cannot connect to a server at 127\.0\.0\.1:1"),
    ):
        other.predict(images[:1])


def test_rejects_request_without_images(target: str) -> None:
    """A request without images fails with INVALID_ARGUMENT."""
    with grpc.insecure_channel(target) as channel, pytest.raises(grpc.RpcError) as failed:
        ClassifierStub(channel).Predict(pb.PredictRequest(model="colors"))
    assert failed.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "the request has no images" in failed.value.details()


def test_closed_local_classifier_raises(published: Published, images: list[bytes]) -> None:
    """`close` may be called twice; `predict` then raises a ModelError."""
    local = LocalClassifier(published.path)
    local.close()
    local.close()
    with pytest.raises(ModelError, match="is closed"):
        local.predict(images[:1])


def _bomb() -> bytes:
    """Encode an image of 400 million pixels in about 50 kB."""
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG", compress_level=9)
    return file.getvalue()


GOOD = [
    (kind, encode(draw_image(color, seed, size), kind))
    for seed, (kind, color, size) in enumerate(
        [
            ("JPEG", (220, 40, 40), (80, 64)),
            ("PNG", (40, 200, 60), (33, 190)),
            ("WEBP", (30, 60, 220), (64, 64)),
            ("GIF", (220, 200, 40), (50, 40)),
            ("BMP", (90, 20, 120), (40, 50)),
            ("TIFF", (10, 160, 160), (70, 70)),
        ]
    )
]
BAD = [
    (b"", "the image is empty"),
    (b"hello, I am not an image", "image"),
    (GOOD[0][1][:-40], "truncated"),
    (GOOD[1][1][:-200], "truncated"),
    (_bomb(), "pixels"),
    (b"\x89PNG\r\n\x1a\n" + bytes(100), "image"),
    (b"\xff\xd8\xff\xe0" + bytes(300), "image"),
]


@pytest.mark.parametrize("clients", [40, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.exhaustive])])
def test_concurrent_valid_and_invalid_requests_are_independent(
    repository: Path, published: Published, clients: int
) -> None:
    """Of many concurrent clients, each valid image gets its own result and each invalid one its own error."""
    with LocalClassifier(published.path) as local:
        expected = local.probabilities([data for _, data in GOOD])
    with server_thread(repository) as target:
        outcomes = asyncio.run(_send_concurrently(target, clients=clients, calls=5))
        with Client(target) as client:
            assert len(client.predict([GOOD[0][1]])) == 1
    assert len(outcomes) == clients * 5
    assert {valid for valid, _, _ in outcomes} == {True, False}
    for valid, index, outcome in outcomes:
        if valid:
            scores = sorted((one.index, one.score) for one in outcome.predictions[0].labels)
            np.testing.assert_allclose([score for _, score in scores], expected[index], atol=1e-5)
        else:
            code, details = outcome
            assert code == grpc.StatusCode.INVALID_ARGUMENT, details
            assert details.startswith("image 1 of 1: ")
            assert BAD[index][1] in details


async def _send_concurrently(target: str, clients: int, calls: int) -> list[tuple[bool, int, object]]:
    """Each client has its own connection and sends requests one after the other, valid or invalid at random."""
    start = asyncio.Event()

    async def client(number: int) -> list[tuple[bool, int, object]]:
        rng, outcomes = random.Random(number), []  # noqa: S311 - not a secret
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            await channel.channel_ready()
            await start.wait()
            for _ in range(calls):
                valid = rng.random() < 0.6
                index = rng.randrange(len(GOOD if valid else BAD))
                request = pb.PredictRequest(images=[(GOOD[index][1]) if valid else BAD[index][0]], top_k=3)
                try:
                    outcome = await ClassifierStub(channel).Predict(request, timeout=60)
                except grpc.aio.AioRpcError as error:
                    outcome = (error.code(), error.details())
                outcomes.append((valid, index, outcome))
        return outcomes

    tasks = [asyncio.create_task(client(number)) for number in range(clients)]
    await asyncio.sleep(0)
    start.set()
    return [outcome for outcomes in await asyncio.gather(*tasks) for outcome in outcomes]
