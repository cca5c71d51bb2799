"""The model repository: versions count up, names stay inside, and NVIDIA Triton can read its files."""

import dataclasses
import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf import text_format
from support.manifests import MANIFEST
from tritonclient.grpc import model_config_pb2

from unfreeze.contract.errors import ModelError, RepositoryError
from unfreeze.contract.model.repository import (
    ModelRepository,
    check_beside,
    check_name,
    find_model,
    read_published,
)
from unfreeze.contract.model.triton_config import config_pbtxt


def test_versions_count_up_and_are_kept(tmp_path: Path) -> None:
    """Each publication is the next version; those before it keep their bytes."""
    repository = ModelRepository(tmp_path / "not" / "yet" / "there")
    assert [repository.publish("insects", b"model %d" % number, MANIFEST) for number in (1, 2, 3)] == [1, 2, 3]
    assert repository.publish("birds", b"other", MANIFEST) == 1
    assert repository.models() == {"birds": (1,), "insects": (1, 2, 3)}
    assert repository.versions("insects") == (1, 2, 3)
    contents = [repository.path("insects", version).read_bytes() for version in (1, 2, 3)]
    assert contents == [b"model 1", b"model 2", b"model 3"]
    assert repository.path("insects", 2) == tmp_path / "not/yet/there/insects/2/model.onnx"


def test_publishing_leaves_no_other_files(tmp_path: Path) -> None:
    """Only the model, its checksums, its configurations and its labels."""
    ModelRepository(tmp_path).publish("insects", b"model", MANIFEST)
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    beside = [f"insects/{name}" for name in ("config.pbtxt", "kserve.yaml", "labels.txt")]
    assert found == ["insects/1/SHA256SUMS", "insects/1/model.onnx", *beside]
    assert (tmp_path / "insects/labels.txt").read_text() == "ant\nbee\n"
    assert (tmp_path / "insects").stat().st_mode & 0o777 == 0o755


def test_versions_are_sorted_as_numbers(tmp_path: Path) -> None:
    """Version 9 comes before version 10."""
    repository = ModelRepository(tmp_path)
    for _ in range(11):
        repository.publish("insects", b"model", MANIFEST)
    assert repository.versions("insects") == tuple(range(1, 12))


def test_keeps_an_edited_configuration(tmp_path: Path) -> None:
    """A generated configuration is replaced, also one of an earlier release; an edited one is not."""
    repository = ModelRepository(tmp_path)
    repository.publish("insects", b"model", MANIFEST)
    repository.publish("insects", b"model", dataclasses.replace(MANIFEST, max_batch=9))
    assert "max_batch_size: 9" in (tmp_path / "insects" / "config.pbtxt").read_text()
    before = "# Written by unfreeze export; without this line it would be kept as it is.\nmax_batch_size: 7\n"
    (tmp_path / "insects" / "config.pbtxt").write_text(before)
    repository.publish("insects", b"model", MANIFEST)
    assert "max_batch_size: 64" in (tmp_path / "insects" / "config.pbtxt").read_text()
    (tmp_path / "insects" / "config.pbtxt").write_text("max_batch_size: 5\n")
    repository.publish("insects", b"model", MANIFEST)
    assert (tmp_path / "insects" / "config.pbtxt").read_text() == "max_batch_size: 5\n"


def test_skips_version_numbers_that_are_taken(tmp_path: Path) -> None:
    """Numbered folders without a model count, and there is an error when no number is left."""
    repository = ModelRepository(tmp_path)
    (tmp_path / "insects" / "4").mkdir(parents=True)
    (tmp_path / "insects" / "4" / "model.plan").write_bytes(b"engine")
    assert repository.publish("insects", b"model", MANIFEST) == 5
    (tmp_path / "insects" / "999999999").mkdir()
    with pytest.raises(RepositoryError, match="already has version 999,999,999, the highest number possible"):
        repository.publish("insects", b"model", MANIFEST)


def test_ignores_other_files_and_folders(tmp_path: Path) -> None:
    """Folders without a model, versions that are not numbers, and files at the top."""
    for place in ("empty", "drafts/1", "drafts/one", "drafts/0", "drafts/-1", "drafts/01", ".hidden/1"):
        (tmp_path / place).mkdir(parents=True)
    for place in ("drafts/one/model.onnx", "drafts/0/model.onnx", "drafts/01/model.onnx", ".hidden/1/model.onnx"):
        (tmp_path / place).write_bytes(b"model")
    (tmp_path / "readme.txt").write_text("hello")
    repository = ModelRepository(tmp_path)
    assert repository.models() == {}
    assert repository.versions("drafts") == repository.versions("absent") == ()


@pytest.mark.parametrize("name", ["insects", "a", "0", "resnet-18.v2_final", "x" * 128, "a..b"])
def test_accepts_valid_names(name: str) -> None:
    """Letters, digits, dots, underscores and hyphens make a name."""
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../up",
        "a/b",
        "/etc",
        "a\\b",
        ".hidden",
        "-flag",
        "_x",
        "a b",
        "a\n",
        "a\x00b",
        "é",
        "x" * 129,
        "insects.encoded",
        "a/../../b",
        "%2e%2e",
        "~",
        "a:b",
        ".staging-x",
    ],
)
def test_rejects_invalid_names(name: str, tmp_path: Path) -> None:
    """Names that leave the repository, are hidden in it or mean something else; in every method."""
    repository = ModelRepository(tmp_path / "root")
    for use in (
        lambda: repository.publish(name, b"model", MANIFEST),
        lambda: repository.versions(name),
        lambda: repository.path(name, 1),
    ):
        with pytest.raises(RepositoryError, match="is not a valid model name: use 1 to 128 letters"):
            use()
    assert list(tmp_path.iterdir()) == []


def test_configuration_follows_tritons_schema(tmp_path: Path) -> None:
    """`config.pbtxt` parses with Triton's own schema and has sizes, types, layout, labels and the largest batch."""
    ModelRepository(tmp_path).publish("insects", b"model", MANIFEST)
    config = text_format.Parse((tmp_path / "insects/config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert (config.name, config.backend, config.max_batch_size) == ("insects", "onnxruntime", 64)
    (pixels,), (probabilities,) = config.input, config.output
    assert (pixels.name, pixels.data_type, list(pixels.dims)) == ("pixels", model_config_pb2.TYPE_UINT8, [224, 200, 3])
    assert pixels.format == model_config_pb2.ModelInput.FORMAT_NHWC
    assert (probabilities.name, probabilities.data_type) == ("probabilities", model_config_pb2.TYPE_FP32)
    assert list(probabilities.dims) == [2]
    assert probabilities.label_filename == "labels.txt"
    assert config.HasField("dynamic_batching")
    assert [(group.count, group.kind) for group in config.instance_group] == [(1, config.instance_group[0].KIND_AUTO)]
    (warm_up,) = config.model_warmup
    assert warm_up.batch_size == 1
    assert set(warm_up.inputs) == {"pixels"}
    zeros = warm_up.inputs["pixels"]
    assert (zeros.data_type, list(zeros.dims)) == (model_config_pb2.TYPE_UINT8, [224, 200, 3])
    assert zeros.zero_data


def test_index_lists_every_file_of_a_version(tmp_path: Path) -> None:
    """`sha256sum --check` reads `SHA256SUMS`, which lists all files that were published with the model."""
    repository = ModelRepository(tmp_path)
    repository.publish("insects", b"model", MANIFEST, {"candidates.json": b"[]"})
    folder = repository.path("insects", 1).parent
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "model.onnx: OK\ncandidates.json: OK\n")
    assert read_published(folder / "model.onnx") == b"model"


@pytest.mark.parametrize("index", ["", "model.onnx", f"{hashlib.sha256(b'other').hexdigest()}  model.onnx", "\x00\xff"])
def test_rejects_a_model_that_is_not_in_its_index(index: str, tmp_path: Path) -> None:
    """A changed file or a changed index; without an index, the file is not checked."""
    repository = ModelRepository(tmp_path)
    repository.publish("insects", b"model", MANIFEST)
    path = repository.path("insects", 1)
    (path.parent / "SHA256SUMS").write_text(index)
    with pytest.raises(ModelError, match="is not the file that was published: its SHA-256, 9372c470eeadd5ec"):
        read_published(path)
    (path.parent / "SHA256SUMS").unlink()
    assert read_published(path) == b"model"


def test_finds_models_by_file_version_or_name(tmp_path: Path) -> None:
    """By a file, a version's folder, or a model's folder, which means its newest version."""
    repository = ModelRepository(tmp_path)
    for _ in range(11):
        repository.publish("insects", b"model", MANIFEST)
    for named, version in (("insects/3/model.onnx", 3), ("insects/3", 3), ("insects", 11)):
        assert find_model(tmp_path / named) == repository.path("insects", version)
    for named in ("", "birds", "insects/12", "insects/3/model.plan"):
        with pytest.raises(ModelError, match=r"is neither a model file nor a folder with one"):
            find_model(tmp_path / named)


def test_finds_the_model_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`.` in a model's folder, and `..` in a version's."""
    repository = ModelRepository(tmp_path)
    repository.publish("insects", b"model", MANIFEST)
    monkeypatch.chdir(tmp_path / "insects")
    assert find_model(Path()).samefile(repository.path("insects", 1))
    monkeypatch.chdir(tmp_path / "insects" / "1")
    assert find_model(Path("..")).samefile(repository.path("insects", 1))


def test_failure_beside_a_version_keeps_it_published(tmp_path: Path) -> None:
    """The error says that the version is published, and it is."""
    repository = ModelRepository(tmp_path)
    repository.publish("insects", b"model", MANIFEST)
    (tmp_path / "insects/labels.txt").unlink()
    (tmp_path / "insects/labels.txt").mkdir()
    with pytest.raises(RepositoryError, match="insects version 2 is published, but the files next to it could not be"):
        repository.publish("insects", b"model", MANIFEST)
    assert repository.versions("insects") == (1, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "2/candidates.json").write_text("[]"), "candidates.json is not the file that was"),
        (lambda folder: (folder / "2/candidates.json").unlink(), "there is no file .*candidates.json"),
        (lambda folder: (folder / "labels.txt").write_text("bee\nant\n"), "labels.txt does not have the labels of"),
    ],
)
def test_checks_the_files_beside_a_model(change: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    """Everything that the index lists, and for the newest version the labels that Triton would return."""
    repository = ModelRepository(tmp_path)
    for _ in range(2):
        repository.publish("insects", b"model", MANIFEST, {"candidates.json": b"{}"})
    first, second = (repository.path("insects", version) for version in (1, 2))
    check_beside(second, MANIFEST.labels)
    change(tmp_path / "insects")
    with pytest.raises(ModelError, match=message):
        check_beside(second, MANIFEST.labels)
    check_beside(first, MANIFEST.labels)


def test_rejects_files_larger_than_any_model(tmp_path: Path) -> None:
    """They are refused before they are read."""
    with (tmp_path / "model.onnx").open("wb") as file:
        file.truncate(200 * 2**30)
    with pytest.raises(ModelError, match="has 214,748,364,800 bytes; at most 2,147,483,648 are allowed"):
        read_published(tmp_path / "model.onnx")


def test_configuration_is_that_of_the_newest_version(tmp_path: Path) -> None:
    """The files beside the versions belong to the version that was published last."""
    repository = ModelRepository(tmp_path)
    repository.publish("insects", b"model", MANIFEST)
    newer = dataclasses.replace(MANIFEST, labels=("ant", "bee", "cicada"), max_batch=8)
    repository.publish("insects", b"model", newer)
    assert (tmp_path / "insects/labels.txt").read_text() == "ant\nbee\ncicada\n"
    assert (tmp_path / "insects/config.pbtxt").read_text().endswith(config_pbtxt("insects", newer))


@pytest.mark.parametrize("root", ["file", "file/below"])
def test_rejects_unwritable_roots(root: str, tmp_path: Path) -> None:
    """If the root is a file or below one, publishing fails and changes nothing."""
    (tmp_path / "file").write_text("precious")
    with pytest.raises(RepositoryError, match=r"cannot publish insects into .*; nothing was changed"):
        ModelRepository(tmp_path / root).publish("insects", b"model", MANIFEST)
    assert (tmp_path / "file").read_text() == "precious"


def test_rejects_a_file_in_place_of_a_model(tmp_path: Path) -> None:
    """If a file has the model's name, publishing fails and leaves no other file."""
    (tmp_path / "insects").write_text("precious")
    with pytest.raises(RepositoryError, match="cannot publish insects into"):
        ModelRepository(tmp_path).publish("insects", b"model", MANIFEST)
    assert [path.name for path in tmp_path.iterdir()] == ["insects"]


@pytest.mark.parametrize("root", ["absent", "file"])
def test_rejects_missing_repositories(root: str, tmp_path: Path) -> None:
    """The error says how to make one."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RepositoryError, match=f"{root} is not a folder; `unfreeze export` creates a model repository"):
        ModelRepository(tmp_path / root).models()
