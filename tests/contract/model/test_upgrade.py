"""Files that earlier versions wrote are still read: manifests of schema 2, models with their seal, and runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.images import COLORS, draw_image, encode

import unfreeze
from unfreeze.contract.errors import ManifestError
from unfreeze.contract.model.engine import EngineFacts, read_engine_facts
from unfreeze.contract.model.manifest import Manifest
from unfreeze.contract.model.onnx_metadata import read_manifest
from unfreeze.contract.model.schema import decode, loads
from unfreeze.contract.model.seal import check_seal
from unfreeze.contract.model.upgrade import upgraded_from_2
from unfreeze.serve.models.verification import verify
from unfreeze.tune.artifacts.checkpoint import RunFacts

DATA = Path(__file__).with_name("data")  # written before schema 3, with schema 2.0


def _old_manifest() -> dict[str, Any]:
    return json.loads((DATA / "manifest-2.0.json").read_bytes())


def test_reads_a_manifest_of_schema_2() -> None:
    """Every value is kept, under the present names of the keys."""
    old, manifest = _old_manifest(), Manifest.from_json((DATA / "manifest-2.0.json").read_bytes())
    new = json.loads(manifest.to_json())
    assert (old["schema"], new["schema"]) == ("2.0", "3.1")
    assert manifest.proof.images == old["proof"]["pictures"] == 9
    assert manifest.provenance.images == old["provenance"]["pictures"]
    assert [golden.image for golden in manifest.golden] == [golden["picture"] for golden in old["golden"]]
    assert manifest.candidates[0].proof.images == old["candidates"][0]["proof"]["pictures"]
    text = json.dumps(old).replace('"pictures"', '"images"').replace('"picture"', '"image"')
    del new["preprocess"]["deep_range"], new["provenance"]["distillation"]
    for candidate in new["candidates"]:
        assert candidate.pop("finish_epochs") == 0
    for proof in (new["proof"], *(candidate["proof"] for candidate in new["candidates"])):
        assert proof.pop("score_difference") is None
    assert [new.pop(name) for name in ("drift", "ood", "features", "projected")] == [None, None, 0, 0]
    assert new == json.loads(text) | {"schema": "3.1"}
    assert Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (("provenance", "pictures"), r"missing field @ \$\.provenance\.images"),
        (("golden", 0, "picture"), r"missing field @ \$\.golden\[0\]\.image"),
        (("candidates", 0, "proof", "pictures"), r"missing field @ \$\.candidates\[0\]\.proof\.images"),
    ],
)
def test_rejects_malformed_manifests_of_schema_2(path: tuple[str | int, ...], message: str) -> None:
    """Missing keys are reported under their present names; the shape of the document is not assumed."""
    document: Any = _old_manifest()
    *parents, last = path
    place = document
    for name in parents:
        place = place[name]
    del place[last]
    with pytest.raises(ManifestError, match=message):
        Manifest.from_json(json.dumps(document))


@pytest.mark.parametrize("value", [None, 1, "text", [], {}, [1], {"pictures": {}}, [{"proof": 3}]])
@pytest.mark.parametrize("key", ["provenance", "proof", "golden", "candidates"])
def test_other_shapes_are_manifest_errors(key: str, value: Any) -> None:
    """Whatever is in the place of an object or a list."""
    if (key, value) in (("golden", []), ("candidates", [])):
        return  # both are valid
    with pytest.raises(ManifestError):
        Manifest.from_json(json.dumps(_old_manifest() | {key: value}))


def test_old_and_new_names_at_once_are_an_error() -> None:
    """Neither silently replaces the other."""
    document = _old_manifest()
    document["proof"]["images"] = 1
    with pytest.raises(ManifestError, match=r"unknown field @ \$\.proof\.pictures"):
        Manifest.from_json(json.dumps(document))


def test_old_names_are_unknown_in_schema_3() -> None:
    """The keys are renamed in documents of schema 2 alone."""
    with pytest.raises(ManifestError, match=r"unknown field @ \$\.(proof|provenance|golden\[0\])\.picture"):
        Manifest.from_json(json.dumps(_old_manifest() | {"schema": "3.0"}))


def test_later_minor_versions_of_schema_2_may_add_fields() -> None:
    """As those of schema 3 may."""
    manifest = Manifest.from_json(json.dumps(_old_manifest() | {"schema": "2.4", "license": "MIT"}))
    assert manifest.schema == "3.1"


def test_an_old_model_verifies_and_predicts() -> None:
    """A model of an earlier version has a whole seal, the probabilities of its golden images, and predicts."""
    path = DATA / "model-2.0.onnx"
    content = path.read_bytes()
    assert b'"picture": ' in content
    manifest = read_manifest(content)
    assert check_seal(content) == manifest.sha256
    verified = verify(path)
    assert (verified.sha256, verified.golden) == (manifest.sha256, len(manifest.golden))
    assert verified.golden > 1
    assert verified.largest_difference < 1e-4
    images = [encode(draw_image(color, 3)) for color in COLORS.values()]
    with unfreeze.load_model(path) as classifier:
        assert np.isclose(classifier.probabilities(images).sum(axis=1), 1).all()
        assert [prediction[0].label for prediction in classifier.predict(images)] == list(COLORS)


def test_reads_an_old_run() -> None:
    """`run.json` of an earlier version, whose provenance has a key under its old name."""
    document = loads((DATA / "run-2.0.json").read_bytes())
    assert "pictures" in document["provenance"]
    facts = decode(RunFacts, upgraded_from_2(document))
    assert facts.provenance.images == document["provenance"]["pictures"]
    assert len(facts.val) == len(document["val"]) == 9


def test_reads_an_old_engine_note() -> None:
    """`model.plan.json` of an earlier version spells `flavour`."""
    facts = EngineFacts(
        onnx_sha256="ab",
        plan_sha256="cd",
        flavor="tensorrt_rtx",
        version="1.7",
        targets=("SM89",),
        driver="",
        batches=(1, 8, 64),
        flags=(),
    )
    new = json.dumps(vars(facts))
    assert read_engine_facts(new) == read_engine_facts(new.replace("flavor", "flavour")) == facts
    with pytest.raises(ManifestError, match="unknown field"):
        read_engine_facts(new.replace("flavor", "flavors"))
    with pytest.raises(ManifestError, match="expected an object"):
        read_engine_facts("[]")
