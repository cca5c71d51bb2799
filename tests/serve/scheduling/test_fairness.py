"""Models share a server: a busy one does not delay the requests of another."""

import shutil
from pathlib import Path

import grpc
import pytest
from PIL import Image
from support.images import encode
from support.servers import running_server

from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub

pytestmark = pytest.mark.xdist_group("serve")


def test_a_busy_model_does_not_delay_another(repository: Path, tmp_path: Path) -> None:
    """A single image for one model is classified before most of the images that another received earlier."""
    for name in ("busy", "quiet"):
        shutil.copytree(repository / "colors", tmp_path / name)
    plan = ("--instances", "2", "--threads", "1")  # not the plan that decodes in a pool which all models share
    image = encode(Image.new("RGB", (2000, 2000), (200, 30, 30)), "PNG")  # small, but slow to decode
    with running_server(tmp_path, *plan) as server, grpc.insecure_channel(server.target) as channel:
        stub = ClassifierStub(channel)
        busy = [stub.Predict.future(pb.PredictRequest(model="busy", images=[image] * 12)) for _ in range(5)]
        one = stub.Predict(pb.PredictRequest(model="quiet", images=[image]))
        unfinished = sum(not call.done() for call in busy)
        assert len(one.predictions) == 1
        assert unfinished > 1
        assert all(len(call.result().predictions) == 12 for call in busy)
