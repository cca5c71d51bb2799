"""`unfreeze.v1.Classifier`, our own client, and the same answers in this process."""

import asyncio
import io
import random
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image
from support.images import draw_image, encode
from support.servers import RunningServer

from unfreeze.contract.errors import DrainingError, ImageError, InvalidRequestError, ModelError, UnknownModelError
from unfreeze.export.run import Published
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub
from unfreeze.serve.client.blocking import Client
from unfreeze.serve.client.local import LocalClassifier


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Client:
    """Our own client."""
    with Client(server.target) as connected:
        yield connected


def test_server_and_file_give_the_same_predictions(
    client: Client, published: Published, images: list[bytes], tmp_path: Path
) -> None:
    """Bytes and files, by the server and in this process: the same labels, scores and order."""
    files = [tmp_path / f"{number}.bin" for number in range(len(images))]
    for file, image in zip(files, images, strict=True):
        file.write_bytes(image)
    with LocalClassifier(published.path) as local:
        expected = local.predict(images, top=3)
        assert local.predict(files, top=3) == expected
        assert local.predict([]) == []
    for asked in (images, files, [str(file) for file in files]):
        served = client.predict(asked, model="colors", top=3)
        for one, other in zip(served, expected, strict=True):
            assert [(item.label, item.index) for item in one] == [(item.label, item.index) for item in other]
            np.testing.assert_allclose([item.score for item in one], [item.score for item in other], atol=1e-5)
    assert client.predict([]) == []
    assert {answer[0].label for answer in expected} > {expected[0][0].label}, "all images got one label"


def test_top_is_bounded_by_the_labels(client: Client, images: list[bytes]) -> None:
    """Asking for more labels than there are gives all of them, and their scores add up to one."""
    (answer,) = client.predict(images[:1], top=50)
    assert sorted(item.label for item in answer) == ["blue", "green", "red"]
    assert sum(item.score for item in answer) == pytest.approx(1, abs=1e-5)
    assert [item.score for item in answer] == sorted((item.score for item in answer), reverse=True)


def test_many_images_go_in_several_requests_and_keep_their_order(client: Client, images: list[bytes]) -> None:
    """More images than a request takes come back in their order."""
    assert client.predict(images * 9, top=1) == client.predict(images, top=1) * 9


def test_the_clients_errors_are_ours(client: Client, images: list[bytes], tmp_path: Path) -> None:
    """What a server refuses arrives as the error that it raised there, with its words."""
    with pytest.raises(InvalidRequestError, match=r"image 2 of 3: .*no image"):
        client.predict([images[0], b"not an image", images[1]])
    with pytest.raises(UnknownModelError, match="there is no model 'nobody'; there are: colors"):
        client.predict(images[:1], model="nobody")
    with pytest.raises(UnknownModelError, match="has version 1 loaded, not '7'"):
        client.predict(images[:1], version="7")
    (tmp_path / "bad.jpg").write_bytes(b"not an image")
    (tmp_path / "good.jpg").write_bytes(images[0])
    with pytest.raises(InvalidRequestError, match=r"bad\.jpg: image 1 of 9: "):
        client.predict([*[tmp_path / "good.jpg"] * 32, tmp_path / "bad.jpg", *[tmp_path / "good.jpg"] * 8])
    for top in (0, -1, 5_000_000_000):
        with pytest.raises(InvalidRequestError, match=r"top (goes from|is at least) 1"):
            client.predict(images[:1], top=top)
    with pytest.raises(ImageError, match=r"missing\.jpg cannot be read: No such file"):
        client.predict([tmp_path / "missing.jpg"])
    with Client("127.0.0.1:1") as nobody, pytest.raises(DrainingError, match=r"no server answers at 127\.0\.0\.1:1"):
        nobody.predict(images[:1])


def test_an_empty_request_is_refused(server: RunningServer) -> None:
    """A request without images is INVALID_ARGUMENT."""
    with grpc.insecure_channel(server.target) as channel, pytest.raises(grpc.RpcError) as refused:
        ClassifierStub(channel).Predict(pb.PredictRequest(model="colors"))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "holds no image" in refused.value.details()


def test_a_closed_file_says_so(published: Published, images: list[bytes]) -> None:
    """Closing twice does no harm, and asking afterwards is an error of ours."""
    local = LocalClassifier(published.path)
    local.close()
    local.close()
    with pytest.raises(ModelError, match="was closed"):
        local.predict(images[:1])


def _bomb() -> bytes:
    """An image of 400 million pixels in some 50 kB."""
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
    (b"hello, I am no image", "no image"),
    (GOOD[0][1][:-40], "truncated"),
    (GOOD[1][1][:-200], "truncated"),
    (_bomb(), "pixels"),
    (b"\x89PNG\r\n\x1a\n" + bytes(100), "image"),
    (b"\xff\xd8\xff\xe0" + bytes(300), "image"),
]


@pytest.mark.slow
def test_a_crowd_of_good_and_bad_callers_is_answered_one_by_one(server: RunningServer, published: Published) -> None:
    """200 clients at once: each good image gets its own answer, each bad one its own reason, and the server lives."""
    with LocalClassifier(published.path) as local:
        expected = local.probabilities([data for _, data in GOOD])
    outcomes = asyncio.run(_crowd(server.target, clients=200, calls=5))
    assert len(outcomes) == 200 * 5
    assert {good for good, _, _ in outcomes} == {True, False}
    for good, index, outcome in outcomes:
        if good:
            scores = sorted((one.index, one.score) for one in outcome.predictions[0].labels)
            np.testing.assert_allclose([score for _, score in scores], expected[index], atol=1e-5)
        else:
            code, details = outcome
            assert code == grpc.StatusCode.INVALID_ARGUMENT, details
            assert details.startswith("image 1 of 1: ")
            assert BAD[index][1] in details
    assert server.process.poll() is None
    with Client(server.target) as client:
        assert len(client.predict([GOOD[0][1]])) == 1


async def _crowd(target: str, clients: int, calls: int) -> list[tuple[bool, int, object]]:
    """Every client has a connection of its own and asks one thing after the other, good or bad by chance."""
    start = asyncio.Event()

    async def client(number: int) -> list[tuple[bool, int, object]]:
        chance, outcomes = random.Random(number), []  # noqa: S311 - no secret
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            await channel.channel_ready()
            await start.wait()
            for _ in range(calls):
                good = chance.random() < 0.6
                index = chance.randrange(len(GOOD if good else BAD))
                request = pb.PredictRequest(images=[(GOOD[index][1]) if good else BAD[index][0]], top=3)
                try:
                    outcome = await ClassifierStub(channel).Predict(request, timeout=60)
                except grpc.aio.AioRpcError as error:
                    outcome = (error.code(), error.details())
                outcomes.append((good, index, outcome))
        return outcomes

    tasks = [asyncio.create_task(client(number)) for number in range(clients)]
    await asyncio.sleep(0)
    start.set()
    return [outcome for outcomes in await asyncio.gather(*tasks) for outcome in outcomes]
