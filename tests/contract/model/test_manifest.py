"""The manifest: what is written is read back, and what is wrong is refused with its place."""

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.manifests import MANIFEST

from unfreeze.contract.errors import ManifestError
from unfreeze.contract.model.manifest import Manifest, check_labels

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
            }
        ),
        "proof": _proofs,
        "golden": st.just([]),  # its answers have as many numbers as there are labels
        "golden_tolerance": st.floats(0, 1),
        "candidates": st.lists(
            st.fixed_dictionaries(
                {"precision": _words, "bytes": st.integers(0), "kept_in_float": st.integers(0), "proof": _proofs}
            ),
            max_size=3,
        ),
        "sha256": st.text("0123456789abcdef", min_size=64, max_size=64),
        "link": st.sampled_from(["softmax", "sigmoid"]),
        "abstain_below": st.none() | st.floats(0, 1),
        "schema": st.just("2.0"),
    }
)


@given(document=_documents)
@settings(deadline=None, max_examples=100)
def test_manifests_survive_their_json(document: dict[str, Any]) -> None:
    """Whatever a manifest says, its JSON says the same, and reading it gives an equal one, from text and from bytes."""
    manifest = Manifest.from_json(json.dumps(document))
    text = manifest.to_json()
    assert json.loads(text) == document
    assert Manifest.from_json(text) == Manifest.from_json(text.encode()) == manifest
    assert manifest.labels == tuple(document["labels"])


def test_golden_answers_survive_their_json() -> None:
    """Golden images and answers come back as they were."""
    manifest = Manifest.from_json(_changed("golden", [GOLDEN]))
    assert dataclasses.asdict(manifest.golden[0]) == GOLDEN | {"probabilities": (0.25, 0.75)}
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_equal_manifests_give_equal_bytes() -> None:
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
        (_changed("labels", "ant"), r"expected a list, found a string \('ant'\) @ \$\.labels"),
        (_changed("labels", ["ant", 2]), r"expected a string, found a whole number \(2\) @ \$\.labels\[1\]"),
        (_changed("max_batch", 1.5), r"expected a whole number, found a number \(1\.5\) @ \$\.max_batch"),
        (_changed("max_batch", value=True), r"expected a whole number, found a boolean \(True\) @ \$\.max_batch"),
        (_changed("max_batch", None), r"expected a whole number, found null \(None\) @ \$\.max_batch"),
        (_changed("max_batch", 0), r"max_batch goes from 1 to 4096, found 0 @ \$$"),
        (_changed("abstain_below", 1.5), r"abstain_below goes from 0 to 1, or is null, found 1\.5 @ \$$"),
        (_changed("abstain_below", -0.1), r"abstain_below goes from 0 to 1, or is null, found -0\.1 @ \$$"),
        (_changed("abstain_below", "low"), r"expected a number, found a string \('low'\) @ \$\.abstain_below"),
        (_changed("abstain_below", value=True), r"expected a number, found a boolean \(True\) @ \$\.abstain_below"),
        (_changed("link", None), r"expected one of 'softmax', 'sigmoid', found None @ \$\.link"),
        (_changed("proof", []), r"expected an object, found a list \(\[\]\) @ \$\.proof"),
        (_changed("metrics", {"f1": "high"}), r"expected a number, found a string \('high'\) @ \$\.metrics\.f1"),
        (_changed("metrics", {"f1": float("nan")}), r"expected a finite number, found nan @ \$\.metrics\.f1"),
        (_changed("proof.tolerance", float("inf")), r"expected a finite number, found inf @ \$\.proof\.tolerance"),
        (
            _changed("proof.tolerance", 10**400),
            r"expected a number, found a whole number \(1000.*\) @ \$\.proof\.tolerance",
        ),
        (_changed("preprocess.interpolation", "box"), r"expected one of .*'bicubic'.* found 'box' @ \$\.preprocess\.i"),
        (_changed("preprocess.interpolation", []), r"expected one of .* found \[\] @ \$\.preprocess\.interpolation"),
        (_changed("preprocess.crop", [999, 9]), r"the crop \(999, 9\) is larger .* @ \$\.preprocess$"),
        (_changed("labels", ["ant"]), r"at least two labels, found \['ant'\] @ \$$"),
        (_changed("labels", ["ant", "\ud800"]), r"expected text in UTF-8, found '\\ud800' @ \$\.labels\[1\]$"),
        (_changed("metrics", {"\ud800": 1}), r"expected text in UTF-8, found '\\ud800' @ \$\.metrics$"),
        (_changed("golden_tolerance", 2), r"golden_tolerance goes from 0 to 1, found 2\.0 @ \$$"),
        ("[]", r'expected "MAJOR\.MINOR", like "2\.0", found None @ \$\.schema'),
        ("null", r"found None @ \$\.schema"),
        (_changed("schema", "one"), r"found 'one' @ \$\.schema"),
        (_changed("schema", 1), r"found 1 @ \$\.schema"),
        (_changed("schema", "3.0"), r"schema 3\.0; this version of unfreeze reads 2\.x: install .* @ \$\.schema"),
        (_changed("schema", "0.9"), r"schema 0\.9; this version of unfreeze reads 2\.x"),
        (_changed("sha256", "0" * 63), r"sha256 has 64 digits from 0 to f, found '0+' @ \$$"),
        (_changed("sha256", "G" * 64), r"sha256 has 64 digits from 0 to f, found 'G+' @ \$$"),
        (
            _changed("golden", [GOLDEN | {"probabilities": [1.0]}]),
            r"has a probability for each of the 2 labels, and names one @ \$$",
        ),
        (
            _changed("golden", [GOLDEN | {"label": "wasp"}]),
            r"has a probability for each of the 2 labels, and names one @ \$$",
        ),
        ("", "this is no JSON"),
        ("{", "this is no JSON"),
        (b"\xff\xfe\xff", "this is no JSON"),
        ("1" * 5000, "this is no JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"schema":' * 100_000, "nested too deeply"),
        (" " * (16 * 2**20 + 1), r"the JSON has 16,777,217 bytes; at most 16,777,216 are read"),
    ],
)
def test_malformed_manifests_are_refused_with_the_place(text: str | bytes, message: str) -> None:
    """A manifest that is wrong is a `ManifestError` that says what is wrong and where it stands."""
    with pytest.raises(ManifestError, match=message):
        Manifest.from_json(text)


def test_any_depth_is_a_manifest_error() -> None:
    """Lists nested to any depth, to the last that the parser takes, are refused as any other wrong value is."""
    for depth in range(1, 1200):
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
def test_other_json_is_a_manifest_error(value: Any) -> None:
    """JSON that is no manifest never gives another error than `ManifestError`."""
    with pytest.raises(ManifestError):
        Manifest.from_json(json.dumps(value))
    for path in ("labels", "preprocess.resize", "metrics", "provenance", "proof.batch_sizes", "schema"):
        try:
            Manifest.from_json(_changed(path, value))
        except ManifestError as error:
            assert "@ $" in str(error)  # noqa: PT017 - a value may by chance be right


def test_later_minor_versions_may_add_fields() -> None:
    """A manifest of a later minor version is read; what it adds, at any depth, is passed over."""
    document = json.loads(_changed("preprocess.color_space", "sRGB")) | {"schema": "2.7", "license": "MIT"}
    manifest = Manifest.from_json(json.dumps(document))
    assert manifest.schema == "2.7"
    assert (manifest.labels, manifest.preprocess) == (MANIFEST.labels, MANIFEST.preprocess)


def test_later_minor_versions_are_checked_as_strictly_otherwise() -> None:
    """A later minor version excuses no missing field."""
    document = json.loads(_without("proof.tolerance")) | {"schema": "2.7"}
    with pytest.raises(ManifestError, match=r"missing field @ \$\.proof\.tolerance"):
        Manifest.from_json(json.dumps(document))


def test_whole_numbers_are_fractions_too() -> None:
    """JSON's 1 is as good as 1.0 where a fraction is expected."""
    found = Manifest.from_json(_changed("metrics", {"val_accuracy": 1})).metrics["val_accuracy"]
    assert (type(found), found) == (float, 1.0)


def test_a_manifest_from_before_links_and_unsure_answers_is_read() -> None:
    """Where link and confidence are missing, the graph ends in a softmax and every answer is sure."""
    document = {k: v for k, v in json.loads(MANIFEST.to_json()).items() if k not in ("link", "abstain_below")}
    manifest = Manifest.from_json(json.dumps(document))
    assert (manifest.link, manifest.abstain_below) == ("softmax", None)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((), r"at least two labels, found \[\]"),
        (("a",), r"at least two labels, found \['a'\]"),
        (("a", "b", "a"), r"labels are repeated: \['a'\]"),
        (("a", ""), r"must not be empty nor hold line breaks, found \[''\]"),
        (("a", " \t"), "must not be empty"),
        (("a", "b\nc"), r"found \['b\\nc'\]"),
        (("a", "b\u2028c"), "nor hold line breaks"),
        (("a", "b\r"), "nor hold line breaks"),
        (("a", "caf\udce9"), r"must be text in UTF-8, found \['caf\\udce9'\]"),
    ],
)
def test_labels_can_be_told_apart_and_written_one_per_line(labels: tuple[str, ...], message: str) -> None:
    """Labels that would be confused, or could not be lines of a UTF-8 file, are refused."""
    with pytest.raises(ValueError, match=message):
        check_labels(labels)
