"""Models share a server: one that has much to do does not keep another's callers waiting."""

import shutil
from pathlib import Path

import grpc
from support.images import COLORS, draw_image, encode
from support.servers import running_server

from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub


def test_a_busy_model_does_not_hold_up_another(repository: Path, tmp_path: Path) -> None:
    """A single image for one model is answered long before the hundreds that another was given first."""
    for name in ("busy", "quiet"):
        shutil.copytree(repository / "colors", tmp_path / name)
    image = encode(draw_image(next(iter(COLORS.values())), 0).resize((900, 900)), "PNG")
    with running_server(tmp_path) as server, grpc.insecure_channel(server.target) as channel:
        stub = ClassifierStub(channel)
        many = [stub.Predict.future(pb.PredictRequest(model="busy", images=[image] * 20)) for _ in range(4)]
        one = stub.Predict(pb.PredictRequest(model="quiet", images=[image]))
        waiting = sum(not call.done() for call in many)
        assert len(one.predictions) == 1
        assert waiting > 1
        assert all(len(call.result().predictions) == 20 for call in many)
