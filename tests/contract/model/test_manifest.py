"""The manifest: it survives serialization, and errors have the path of the wrong value."""

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.manifests import MANIFEST

from unfreeze.contract.errors import ManifestError
from unfreeze.contract.model.manifest import Manifest, check_labels
from unfreeze.contract.model.ood import METHODS

GOLDEN = {"image": "AAAA", "pixels_sha256": "ab", "probabilities": [0.25, 0.75], "label": "bee"}


def _changed(path: str, value: Any) -> str:
    document = json.loads(MANIFEST.to_json())
    *parents, last = path.split(".")
    place = document
    for name in parents:
        place = place[name]
    place[last] = value
    return json.dumps(document)


def _without(path: str) -> str:
    document = json.loads(MANIFEST.to_json())
    *parents, last = path.split(".")
    place = document
    for name in parents:
        place = place[name]
    del place[last]
    return json.dumps(document)


_words = st.text(max_size=20)
_labels = st.lists(
    st.text(min_size=1, max_size=20).filter(lambda text: text.strip() and text.splitlines() == [text]),
    min_size=2,
    max_size=30,
    unique=True,
)
_numbers = st.floats(allow_nan=False, allow_infinity=False)
_sizes = st.integers(300, 4096)
_proofs = st.fixed_dictionaries(
    dict.fromkeys(("largest_difference", "tolerance", "same_top1", "accuracy", "trained_accuracy"), _numbers)
    | {"images": st.integers(0, 10**9), "batch_sizes": st.lists(st.integers(1, 4096), max_size=5)}
    | {"score_difference": st.none() | st.floats(0, 2)}
)
_foreign = st.fixed_dictionaries(
    {
        "method": st.sampled_from(METHODS),
        "threshold": _numbers,
        "false_alarms": st.floats(0.001, 0.999),
        "images": st.integers(1, 10**9),
    }
    | dict.fromkeys(("false_alarms_low", "false_alarms_high"), st.floats(0, 1))
    | dict.fromkeys(("auroc", "baseline_auroc"), st.none() | st.floats(0, 1))
)
_distillations = st.fixed_dictionaries(
    dict.fromkeys(("name", "version", "sha256"), _words)
    | dict.fromkeys(("temperature", "weight"), st.floats(0, 100))
    | {"unlabeled_images": st.integers(0, 10**9), "kept": st.booleans()}
    | {
        f"{whose}_{figure}": st.none() | st.floats(0, 1)
        for whose in ("taught", "own")
        for figure in ("accuracy", "standard_error")
    }
)
_documents = st.fixed_dictionaries(
    {
        "labels": _labels,
        "preprocess": st.fixed_dictionaries(
            {
                "resize": st.lists(_sizes, min_size=1, max_size=2),
                "crop": st.lists(st.integers(1, 300), min_size=2, max_size=2),
                "interpolation": st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]),
                "mean": st.lists(_numbers, min_size=3, max_size=3),
                "std": st.lists(st.floats(1e-6, 1e6), min_size=3, max_size=3),
                "deep_range": st.none() | st.tuples(st.floats(-1e6, -1), st.floats(0, 1e6)).map(list),
            }
        ),
        "precision": st.sampled_from(["fp32", "fp16", "int8"]),
        "max_batch": st.integers(1, 4096),
        "metrics": st.dictionaries(_words, _numbers, max_size=5),
        "provenance": st.fixed_dictionaries(
            dict.fromkeys(("backbone", "weights", "weights_sha256", "cut"), _words)
            | {
                "seed": st.integers(0, 2**32 - 1),
                "images": st.integers(0, 10**9),
                "versions": st.dictionaries(_words, _words, max_size=5),
                "distillation": st.none() | _distillations,
            }
        ),
        "proof": _proofs,
        "golden": st.just([]),  # each needs as many probabilities as there are labels
        "golden_tolerance": st.floats(0, 1),
        "candidates": st.lists(
            st.fixed_dictionaries(
                {
                    "precision": _words,
                    "bytes": st.integers(0),
                    "kept_in_float": st.integers(0),
                    "proof": _proofs,
                    "finish_epochs": st.integers(0),
                }
            ),
            max_size=3,
        ),
        "sha256": st.binary(min_size=32, max_size=32).map(bytes.hex),
        "link": st.sampled_from(["softmax", "sigmoid"]),
        "abstain_below": st.none() | st.floats(0, 1),
        "drift": st.none(),
        "ood": st.none() | _foreign,
        "features": st.integers(0, 4096),
        "projected": st.integers(0, 16),
        "schema": st.just("3.1"),
    }
)


@given(document=_documents)
@settings(deadline=None, max_examples=100)
def test_manifests_survive_their_json(document: dict[str, Any]) -> None:
    """Any manifest is equal to what its JSON is parsed to, from text and from bytes."""
    manifest = Manifest.from_json(json.dumps(document))
    text = manifest.to_json()
    assert json.loads(text) == document
    assert Manifest.from_json(text) == Manifest.from_json(text.encode()) == manifest
    assert manifest.labels == tuple(document["labels"])


def test_golden_images_survive_their_json() -> None:
    """Golden images and their probabilities are unchanged."""
    manifest = Manifest.from_json(_changed("golden", [GOLDEN]))
    assert dataclasses.asdict(manifest.golden[0]) == GOLDEN | {"probabilities": (0.25, 0.75)}
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_equal_manifests_give_equal_json() -> None:
    """The JSON does not depend on the order in which metrics were added."""
    one, two = ({"b": 1.0, "a": 2.0}, {"a": 2.0, "b": 1.0})
    both = [json.loads(MANIFEST.to_json()) | {"metrics": metrics} for metrics in (one, two)]
    first, second = (Manifest.from_json(json.dumps(document)).to_json() for document in both)
    assert first == second


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_without("labels"), r"missing field @ \$\.labels"),
        (_without("preprocess.resize"), r"missing field @ \$\.preprocess\.resize"),
        (_without("provenance.cut"), r"missing field @ \$\.provenance\.cut"),
        (_changed("color", 1), r"unknown field @ \$\.color"),
        (_changed("preprocess.color", 1), r"unknown field @ \$\.preprocess\.color"),
        (_changed("labels", "ant"), r"expected a list, got a string \('ant'\) @ \$\.labels"),
        (_changed("labels", ["ant", 2]), r"expected a string, got a whole number \(2\) @ \$\.labels\[1\]"),
        (_changed("max_batch", 1.5), r"expected a whole number, got a number \(1\.5\) @ \$\.max_batch"),
        (_changed("max_batch", value=True), r"expected a whole number, got a boolean \(True\) @ \$\.max_batch"),
        (_changed("max_batch", None), r"expected a whole number, got null \(None\) @ \$\.max_batch"),
        (_changed("max_batch", 0), r"max_batch must be between 1 and 4096, got 0 @ \$$"),
        (_changed("abstain_below", 1.5), r"abstain_below must be between 0 and 1, or null, got 1\.5 @ \$$"),
        (_changed("abstain_below", -0.1), r"abstain_below must be between 0 and 1, or null, got -0\.1 @ \$$"),
        (_changed("abstain_below", "low"), r"expected a number, got a string \('low'\) @ \$\.abstain_below"),
        (_changed("abstain_below", value=True), r"expected a number, got a boolean \(True\) @ \$\.abstain_below"),
        (_changed("link", None), r"expected one of 'softmax', 'sigmoid', got None @ \$\.link"),
        (_changed("proof", []), r"expected an object, got a list \(\[\]\) @ \$\.proof"),
        (_changed("metrics", {"f1": "high"}), r"expected a number, got a string \('high'\) @ \$\.metrics\.f1"),
        (_changed("metrics", {"f1": float("nan")}), r"expected a finite number, got nan @ \$\.metrics\.f1"),
        (_changed("proof.tolerance", float("inf")), r"expected a finite number, got inf @ \$\.proof\.tolerance"),
        (
            _changed("proof.tolerance", 10**400),
            r"expected a number, got a whole number \(1000.*\) @ \$\.proof\.tolerance",
        ),
        (_changed("preprocess.interpolation", "box"), r"expected one of .*'bicubic'.* got 'box' @ \$\.preprocess\.i"),
        (_changed("preprocess.interpolation", []), r"expected one of .* got \[\] @ \$\.preprocess\.interpolation"),
        (_changed("preprocess.crop", [999, 9]), r"the crop \(999, 9\) is larger .* @ \$\.preprocess$"),
        (_changed("labels", ["ant"]), r"at least two labels, got \['ant'\] @ \$$"),
        (_changed("labels", ["ant", "\ud800"]), r"expected text in UTF-8, got '\\ud800' @ \$\.labels\[1\]$"),
        (_changed("metrics", {"\ud800": 1}), r"expected text in UTF-8, got '\\ud800' @ \$\.metrics$"),
        (_changed("golden_tolerance", 2), r"golden_tolerance must be between 0 and 1, got 2\.0 @ \$$"),
        ("[]", r'expected "MAJOR\.MINOR", like "3\.1", got None @ \$\.schema'),
        ("null", r"got None @ \$\.schema"),
        (_changed("schema", "one"), r"got 'one' @ \$\.schema"),
        (_changed("schema", 1), r"got 1 @ \$\.schema"),
        (_changed("schema", "4.0"), r"schema 4\.0, and this version of unfreeze reads 2\.x and 3\.x: install .* @ \$"),
        (_changed("schema", "0.9"), r"schema 0\.9, and this version of unfreeze reads 2\.x and 3\.x"),
        (_changed("sha256", "0" * 63), r"sha256 must have 64 hexadecimal digits in lower case, got '0+' @ \$$"),
        (_changed("sha256", "G" * 64), r"sha256 must have 64 hexadecimal digits in lower case, got 'G+' @ \$$"),
        (
            _changed("golden", [GOLDEN | {"probabilities": [1.0]}]),
            r"must have 2 probabilities, one per label, and a known label @ \$$",
        ),
        (
            _changed("golden", [GOLDEN | {"label": "wasp"}]),
            r"must have 2 probabilities, one per label, and a known label @ \$$",
        ),
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        (b"\xff\xfe\xff", "not valid JSON"),
        ("1" * 5000, "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"schema":' * 100_000, "nested too deeply"),
        (" " * (16 * 2**20 + 1), r"the JSON has 16,777,217 bytes; at most 16,777,216 are allowed"),
    ],
)
def test_rejects_malformed_manifests_with_the_path(text: str | bytes, message: str) -> None:
    """A `ManifestError` says what is wrong, and at which path."""
    with pytest.raises(ManifestError, match=message):
        Manifest.from_json(text)


def test_rejects_any_depth_of_nesting() -> None:
    """Lists nested up to and beyond the depth that the parser supports are a `ManifestError`."""
    for depth in (1, 2, 50, 400, *range(900, 1100, 5), 2000, 100_000):
        nested = "[" * depth + "]" * depth
        with pytest.raises(ManifestError):
            Manifest.from_json(_changed("labels", "?").replace('"?"', nested).replace("64", nested))


_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
_json = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(value=_json)
@settings(deadline=None)
def test_rejects_other_json(value: Any) -> None:
    """JSON that is not a manifest is always a `ManifestError`, never another error."""
    with pytest.raises(ManifestError):
        Manifest.from_json(json.dumps(value))
    for path in ("labels", "preprocess.resize", "metrics", "provenance", "proof.batch_sizes", "schema"):
        try:
            Manifest.from_json(_changed(path, value))
        except ManifestError as error:
            assert "@ $" in str(error)  # noqa: PT017 - a value may be valid by chance


def test_later_minor_versions_may_add_fields() -> None:
    """A manifest of a later minor version is read; fields that it adds, at any depth, are ignored."""
    document = json.loads(_changed("preprocess.color_space", "sRGB")) | {"schema": "3.7", "license": "MIT"}
    manifest = Manifest.from_json(json.dumps(document))
    assert manifest.schema == "3.7"
    assert (manifest.labels, manifest.preprocess) == (MANIFEST.labels, MANIFEST.preprocess)


def test_later_minor_versions_must_not_lack_fields() -> None:
    """Fields may be added, and none may be missing."""
    document = json.loads(_without("proof.tolerance")) | {"schema": "3.7"}
    with pytest.raises(ManifestError, match=r"missing field @ \$\.proof\.tolerance"):
        Manifest.from_json(json.dumps(document))


def test_integers_are_accepted_as_floats() -> None:
    """JSON's 1 is read as 1.0 where a float is expected."""
    found = Manifest.from_json(_changed("metrics", {"val_accuracy": 1})).metrics["val_accuracy"]
    assert (type(found), found) == (float, 1.0)


def test_newer_fields_have_defaults() -> None:
    """Without link, threshold and deep range: a softmax, no unsure predictions, and the full range of 16 bits."""
    document = {k: v for k, v in json.loads(MANIFEST.to_json()).items() if k not in ("link", "abstain_below")}
    del document["preprocess"]["deep_range"]
    manifest = Manifest.from_json(json.dumps(document))
    assert (manifest.link, manifest.abstain_below, manifest.preprocess.deep_range) == ("softmax", None, None)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((), r"at least two labels, got \[\]"),
        (("a",), r"at least two labels, got \['a'\]"),
        (("a", "b", "a"), r"labels must be unique, got more than once: \['a'\]"),
        (("a", ""), r"must not be empty or contain line breaks, got \[''\]"),
        (("a", " \t"), "must not be empty"),
        (("a", "b\nc"), r"got \['b\\nc'\]"),
        (("a", "b\u2028c"), "or contain line breaks"),
        (("a", "b\r"), "or contain line breaks"),
        (("a", "caf\udce9"), r"must be valid UTF-8, got \['caf\\udce9'\]"),
    ],
)
def test_rejects_labels_that_are_ambiguous_or_not_a_line(labels: tuple[str, ...], message: str) -> None:
    """Labels must be unique lines of a UTF-8 file."""
    with pytest.raises(ValueError, match=message):
        check_labels(labels)
