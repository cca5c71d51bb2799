"""Images unlike the training images: both gRPC services, HTTP and in-process prediction say the same."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from support.http import call
from support.runs import write_run
from support.servers import running_server, server_in_thread
from tritonclient.utils import InferenceServerException

from unfreeze.contract.answers import Answer
from unfreeze.contract.errors import ModelError
from unfreeze.contract.model.ood import OutOfDistribution
from unfreeze.contract.model.repository import ModelRepository
from unfreeze.contract.model.seal import UNSEALED
from unfreeze.export.graph import with_manifest
from unfreeze.export.options import ExportOptions
from unfreeze.export.run import export_model
from unfreeze.serve.client.blocking import Client
from unfreeze.serve.client.local import LocalClassifier
from unfreeze.serve.server import Server

pytestmark = pytest.mark.xdist_group("serve")

_FOREIGN = OutOfDistribution(
    method="energy", threshold=0.0, false_alarms=0.05, false_alarms_low=0.0, false_alarms_high=0.2, images=18, auroc=0.9
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, images: list[bytes]) -> Path:
    """The file of a model whose thresholds divide the images: by confidence, and by their distance."""
    import onnx

    folder = tmp_path_factory.mktemp("foreign")
    run = write_run(folder, ood=_FOREIGN)
    published = export_model(run, folder / "models", "colors", ExportOptions(features=True))
    with LocalClassifier(published.path) as local:
        scores = [answer.ood_score or 0.0 for answer in local.answers(images)]
        manifest = local.manifest
    assert manifest.ood is not None
    ood = replace(manifest.ood, threshold=float(np.median(scores)))
    changed = replace(manifest, sha256=UNSEALED, ood=ood, abstain_below=0.4)
    repository = ModelRepository(folder / "models")
    version = repository.publish("foreign", with_manifest(onnx.load(published.path), changed), changed)
    return repository.path("foreign", version)


@pytest.fixture(scope="module")
def answers(model: Path, images: list[bytes]) -> list[Answer]:
    """What is answered in-process: some images are out of distribution, others are not."""
    with LocalClassifier(model) as local:
        found = local.answers(images)
    assert {answer.out_of_distribution for answer in found} == {True, False}
    assert all(answer.unsure for answer in found if answer.out_of_distribution)
    assert not all(answer.unsure for answer in found)
    return found


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    """A server of this model, over gRPC and HTTP."""
    with server_in_thread(model.parents[2], http=0) as running:
        yield running


def test_clients_get_score_and_mark(server: Server, images: list[bytes], answers: list[Answer]) -> None:
    """Of `foreign`, score, mark and doubt; the description has method and threshold."""
    with Client(f"127.0.0.1:{server.port}") as client:
        found = list(client.classify(images, model="foreign"))
        described = client.describe_model("foreign")
    for own, other in zip(answers, found, strict=True):
        assert own.predictions == other.predictions
        assert other.ood_score == pytest.approx(own.ood_score, abs=1e-4)
        assert (own.unsure, own.out_of_distribution) == (other.unsure, other.out_of_distribution)
    assert (described.ood_method, described.ood_threshold) == ("energy", _threshold(answers))


def _threshold(answers: list[Answer]) -> object:
    scores = sorted(answer.ood_score or 0.0 for answer in answers)
    return pytest.approx(float(np.median(scores)))


def test_http_answers_have_score_and_mark(server: Server, images: list[bytes], answers: list[Answer]) -> None:
    """One file, one prediction."""
    for own, image in zip(answers[:4], images[:4], strict=True):
        (found,) = call(server, "/v1/models/foreign:classify", image).json["predictions"]
        assert found["ood_score"] == pytest.approx(own.ood_score, abs=1e-4)
        assert (found["unsure"], found["out_of_distribution"]) == (own.unsure, own.out_of_distribution)


def test_the_open_inference_protocol_has_further_outputs(
    server: Server, images: list[bytes], answers: list[Answer]
) -> None:
    """`foreign.encoded` declares them; probabilities have one column for each label, also in classification strings."""
    given = triton.InferInput("image", [len(images), 1], "BYTES")
    given.set_data_from_numpy(np.array(images, object)[:, None])
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        outputs = client.get_model_metadata("foreign.encoded").outputs
        declared = {one.name: (one.datatype, list(one.shape)) for one in outputs}
        plain = [one.name for one in client.get_model_metadata("foreign").outputs]
        found = client.infer("foreign.encoded", [given])
        strings = client.infer(
            "foreign.encoded", [given], outputs=[triton.InferRequestedOutput("probabilities", class_count=9)]
        )
        with pytest.raises(
            InferenceServerException, match="'unsure', 'ood_score' and 'out_of_distribution'; 'nothing' was"
        ):
            client.infer("foreign.encoded", [given], outputs=[triton.InferRequestedOutput("nothing")])
    assert declared == {
        "probabilities": ("FP32", [-1, 3]),
        "unsure": ("BOOL", [-1]),
        "ood_score": ("FP32", [-1]),
        "out_of_distribution": ("BOOL", [-1]),
    }
    assert plain == ["probabilities"]
    assert found.as_numpy("probabilities").shape == (len(images), 3)
    np.testing.assert_allclose(found.as_numpy("ood_score"), [one.ood_score for one in answers], atol=1e-4)
    assert found.as_numpy("out_of_distribution").tolist() == [one.out_of_distribution for one in answers]
    assert found.as_numpy("unsure").tolist() == [one.unsure for one in answers]
    assert strings.as_numpy("probabilities").shape == (len(images), 3)


def test_front_end_processes_answer_the_same(model: Path, images: list[bytes], answers: list[Answer]) -> None:
    """Rows with the score cross shared memory between processes."""
    with running_server(model.parents[2], "--frontends", "2") as running, Client(running.target) as client:
        found = list(client.classify(images, model="foreign"))
    assert [one.out_of_distribution for one in found] == [one.out_of_distribution for one in answers]
    np.testing.assert_allclose([one.ood_score for one in found], [one.ood_score for one in answers], atol=1e-4)


def test_features_are_returned_in_process(model: Path, careful: Path, images: list[bytes]) -> None:
    """One row for each image; a model that was exported without them says what to do."""
    with LocalClassifier(model) as local:
        assert local.features(images).shape == (len(images), 512)
        assert local.features([]).shape == (0, 512)
        assert local.probabilities(images).shape == (len(images), 3)
    with LocalClassifier(careful) as local, pytest.raises(ModelError, match="export the run again, with --features"):
        local.features(images)


def test_models_without_a_score_say_nothing(careful: Path, images: list[bytes]) -> None:
    """Score and mark are None."""
    with LocalClassifier(careful) as local:
        found = local.answers(images)
    assert {(one.ood_score, one.out_of_distribution) for one in found} == {(None, None)}
