"""`unfreeze.v1.Classifier`, our own client, and the same answers in this process."""

import asyncio
import io
import random
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image
from support.pictures import draw_picture, encode
from support.servers import RunningServer

from contract.errors import DrainingError, InvalidRequestError, ModelError, PictureError, UnknownModelError
from export.run import Published
from protos import unfreeze_pb2 as pb
from protos.unfreeze_pb2_grpc import ClassifierStub
from serve.client import Client
from serve.local import LocalClassifier


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Client:
    """Our own client."""
    with Client(server.target) as connected:
        yield connected


def test_server_and_file_give_the_same_predictions(
    client: Client, published: Published, pictures: list[bytes], tmp_path: Path
) -> None:
    """Bytes and files, by the server and in this process: the same labels, scores and order."""
    files = [tmp_path / f"{number}.bin" for number in range(len(pictures))]
    for file, picture in zip(files, pictures, strict=True):
        file.write_bytes(picture)
    with LocalClassifier(published.path) as local:
        expected = local.predict(pictures, top=3)
        assert local.predict(files, top=3) == expected
        assert local.predict([]) == []
    for asked in (pictures, files, [str(file) for file in files]):
        served = client.predict(asked, model="colours", top=3)
        for one, other in zip(served, expected, strict=True):
            assert [(item.label, item.index) for item in one] == [(item.label, item.index) for item in other]
            np.testing.assert_allclose([item.score for item in one], [item.score for item in other], atol=1e-5)
    assert client.predict([]) == []
    assert {answer[0].label for answer in expected} > {expected[0][0].label}, "all pictures got one label"


def test_top_is_bounded_by_the_labels(client: Client, pictures: list[bytes]) -> None:
    """Asking for more labels than there are gives all of them, and their scores add up to one."""
    (answer,) = client.predict(pictures[:1], top=50)
    assert sorted(item.label for item in answer) == ["blue", "green", "red"]
    assert sum(item.score for item in answer) == pytest.approx(1, abs=1e-5)
    assert [item.score for item in answer] == sorted((item.score for item in answer), reverse=True)


def test_many_pictures_go_in_several_requests_and_keep_their_order(client: Client, pictures: list[bytes]) -> None:
    """More pictures than a request takes come back in their order."""
    assert client.predict(pictures * 9, top=1) == client.predict(pictures, top=1) * 9


def test_the_clients_errors_are_ours(client: Client, pictures: list[bytes], tmp_path: Path) -> None:
    """What a server refuses arrives as the error that it raised there, with its words."""
    with pytest.raises(InvalidRequestError, match=r"picture 2 of 3: .*no picture"):
        client.predict([pictures[0], b"not a picture", pictures[1]])
    with pytest.raises(UnknownModelError, match="there is no model 'nobody'; there are: colours"):
        client.predict(pictures[:1], model="nobody")
    with pytest.raises(UnknownModelError, match="has version 1 loaded, not '7'"):
        client.predict(pictures[:1], version="7")
    (tmp_path / "bad.jpg").write_bytes(b"not a picture")
    (tmp_path / "good.jpg").write_bytes(pictures[0])
    with pytest.raises(InvalidRequestError, match=r"bad\.jpg: picture 1 of 9: "):
        client.predict([*[tmp_path / "good.jpg"] * 32, tmp_path / "bad.jpg", *[tmp_path / "good.jpg"] * 8])
    for top in (0, -1, 5_000_000_000):
        with pytest.raises(InvalidRequestError, match=r"top (goes from|is at least) 1"):
            client.predict(pictures[:1], top=top)
    with pytest.raises(PictureError, match=r"missing\.jpg cannot be read: No such file"):
        client.predict([tmp_path / "missing.jpg"])
    with Client("127.0.0.1:1") as nobody, pytest.raises(DrainingError, match=r"no server answers at 127\.0\.0\.1:1"):
        nobody.predict(pictures[:1])


def test_an_empty_request_is_refused(server: RunningServer) -> None:
    """A request without pictures is INVALID_ARGUMENT."""
    with grpc.insecure_channel(server.target) as channel, pytest.raises(grpc.RpcError) as refused:
        ClassifierStub(channel).Predict(pb.PredictRequest(model="colours"))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "holds no picture" in refused.value.details()


def test_a_closed_file_says_so(published: Published, pictures: list[bytes]) -> None:
    """Closing twice does no harm, and asking afterwards is an error of ours."""
    local = LocalClassifier(published.path)
    local.close()
    local.close()
    with pytest.raises(ModelError, match="was closed"):
        local.predict(pictures[:1])


def _bomb() -> bytes:
    """A picture of 400 million pixels in some 50 kB."""
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG", compress_level=9)
    return file.getvalue()


GOOD = [
    (kind, encode(draw_picture(colour, seed, size), kind))
    for seed, (kind, colour, size) in enumerate(
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
    (b"", "the picture is empty"),
    (b"hello, I am no picture", "no picture"),
    (GOOD[0][1][:-40], "truncated"),
    (GOOD[1][1][:-200], "truncated"),
    (_bomb(), "pixels"),
    (b"\x89PNG\r\n\x1a\n" + bytes(100), "picture"),
    (b"\xff\xd8\xff\xe0" + bytes(300), "picture"),
]


@pytest.mark.slow
def test_a_crowd_of_good_and_bad_callers_is_answered_one_by_one(server: RunningServer, published: Published) -> None:
    """200 clients at once: each good picture gets its own answer, each bad one its own reason, and the server lives."""
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
            assert details.startswith("picture 1 of 1: ")
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
                request = pb.PredictRequest(pictures=[(GOOD[index][1]) if good else BAD[index][0]], top=3)
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
