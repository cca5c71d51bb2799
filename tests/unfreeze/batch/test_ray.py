"""Jobs on a Ray cluster of two nodes on this machine: one cluster for all tests."""

import os
import re
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.batch_jobs import start_job
from support.cli import run_cli
from support.images import write_images
from support.sources import write_table

from unfreeze.batch import ray_data
from unfreeze.batch.blocks import Block
from unfreeze.batch.cluster import connected, own_error
from unfreeze.batch.model import read_job_model
from unfreeze.batch.ray_map import store_blocks
from unfreeze.batch.rows import SCHEMA, Answers, encode_block
from unfreeze.batch.sources.entry import Entry, Item
from unfreeze.batch.workers import WorkerSettings
from unfreeze.contract.errors import ModelError, UnfreezeError
from unfreeze.contract.model.onnx_metadata import read_manifest
from unfreeze.tune.store.folder import store_folder

pytest.importorskip("ray")
pytestmark = [
    pytest.mark.xdist_group("commands"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes, one core each; the second has what counts as a GPU. This process is connected."""
    folder = tempfile.mkdtemp(prefix="ray-")  # short: sockets lie in it
    before = dict(os.environ)
    os.environ |= {"RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray
        import ray.data
        from ray.cluster_utils import Cluster

        memory = {"object_store_memory": 100 << 20, "include_dashboard": False}
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **memory})
        made.add_node(num_cpus=1, num_gpus=1, object_store_memory=100 << 20)
        ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
        yield made
        ray.shutdown()
        made.shutdown()
    os.environ.clear()
    os.environ.update(before)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images, one of them truncated."""
    folder = write_images(tmp_path_factory.mktemp("ray") / "images", 20)
    whole = (folder / "blue" / "003.jpg").read_bytes()
    (folder / "blue" / "003.jpg").write_bytes(whole[: len(whole) // 2])
    return folder


def test_the_result_is_that_of_one_machine(cluster: Any, folder: Path, images: Path, tmp_path: Path) -> None:
    """Byte for byte, with the error of a bad image; here a part was computed by threads and the rest on the cluster."""
    source = write_table(
        tmp_path / "many.parquet", image=[path.read_bytes() for path in sorted(images.rglob("*.jpg"))] * 4
    )
    command = ["predict", source, "--file", folder / "models" / "colors"]
    assert run_cli(*command, "--out", tmp_path / "one.parquet").returncode == 1
    killed = start_job(*command, "--out", tmp_path / "two.parquet", killed_at=(14, tmp_path))
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    blocks = list(tmp_path.glob(".two.parquet.unfinished/blocks/*.parquet"))
    assert 1 <= len(blocks) <= 4
    done = run_cli(*command, "--out", tmp_path / "two.parquet", "--ray", cluster.address)
    assert done.returncode == 1
    assert "4 of 240 images could not be classified" in " ".join(done.stderr.split()), done.stderr
    assert (tmp_path / "two.parquet").read_bytes() == (tmp_path / "one.parquet").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many.parquet", "one.parquet", "two.parquet"]


def _blocks(images: Path) -> list[Block]:
    entries = [Entry(kind="image", path=str(path)) for path in sorted(images.rglob("*.jpg"))]
    return [Block(number=3, entries=tuple(entries[:40])), Block(number=7, entries=tuple(entries[40:]))]


def test_decoding_apart_from_the_gpu_gives_the_same_blocks(cluster: Any, folder: Path, images: Path) -> None:
    """As with --device cuda: tasks on CPUs decode, a worker with a GPU classifies, the batches are joined here."""
    model = read_job_model(folder / "models" / "colors", "cpu")
    with connected(cluster.address) as ray:
        objects, places = store_blocks(ray, (block.to_json() for block in _blocks(images)))
        spec = read_manifest(model.content).preprocess
        settings = WorkerSettings(model=ray.put(model), blocks=objects, spec=spec, batch=model.batch, top_k=3, base="")
        apart = dict(ray_data._joined(ray, places, settings))
        together = dict(ray_data._computed(ray, places, settings, uses_cpu=True))
    assert together.keys() == {3, 7}
    assert apart == together


def test_what_a_worker_raises_is_the_error_of_the_command(cluster: Any, folder: Path, tmp_path: Path) -> None:
    """A file of many images that a worker cannot open ends the job in one line, not in its traceback."""
    model = read_job_model(folder / "models" / "colors", "cpu")
    block = Block(number=0, entries=(Entry(kind="tar", path=str(tmp_path / "gone.tar"), version="1", count=3),))
    with pytest.raises(UnfreezeError) as caught:
        list(ray_data.predict_on_ray(model, 1, "", [block], cluster.address))
    expected = (
        f"{tmp_path / 'gone.tar'} was listed and can no longer be read: no such file; all machines that work need it"
    )
    assert (str(caught.value), type(caught.value)) == (expected, UnfreezeError)


def test_features_on_a_cluster_are_those_that_tuning_reads(cluster: Any, tmp_path: Path) -> None:
    """Afterwards a probe computes none: it stores nothing more, and its files are those of a run without a store."""
    data = tmp_path / "data"
    write_images(data / "train", 9)
    write_images(data / "val", 3, first_seed=700)
    (data / "train" / "red" / "bad.jpg").write_bytes(b"bad")
    options = ["--weights", "builtin", "--image-size", "64"]
    filled = run_cli("features", data, *options, "--ray", cluster.address)
    assert filled.returncode == 0, filled.stderr
    assert re.search(r"features of 36 images, 36 computed now; 1 file skipped", filled.stdout), filled.stdout
    segments = {path.name for path in store_folder().rglob("*.safetensors")}
    assert segments
    again = run_cli("features", data, *options)
    assert "features of 36 images, 0 computed now; 1 file skipped" in again.stdout, again.stdout
    probe = ["--recipe", "probe"]
    assert run_cli("tune", data, *options, *probe, "--out", tmp_path / "stored").returncode == 0
    assert {path.name for path in store_folder().rglob("*.safetensors")} == segments
    assert run_cli("tune", data, *options, *probe, "--out", tmp_path / "alone", "--store-gb", "0").returncode == 0
    for name in ("model.safetensors", "predictions.csv", "label_issues.csv"):
        assert (tmp_path / "stored" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name


def test_a_cluster_without_a_gpu_says_so() -> None:
    """Ray itself would wait for one."""
    from types import SimpleNamespace

    from unfreeze.batch.cluster import check_gpu

    with pytest.raises(UnfreezeError, match="--device cuda: no machine of the Ray cluster has a GPU; use --device cpu"):
        check_gpu(SimpleNamespace(cluster_resources=lambda: {"CPU": 2.0}), "cuda")  # type: ignore[arg-type]


def test_an_address_without_a_cluster_is_named(folder: Path, images: Path, tmp_path: Path) -> None:
    """With how to start one. The job is run in a process of its own, which is not connected."""
    command = ["predict", images, "--file", folder / "models" / "colors", "--out", tmp_path / "out.parquet"]
    process = start_job(*command, "--ray", "nonsense", stderr=tmp_path / "stderr")
    process.join()
    text = " ".join((tmp_path / "stderr").read_text().split())
    assert process.exitcode == 1
    assert re.search(r"error: no Ray cluster answers at nonsense \(.*\); `ray start --head` starts one", text), text


def test_images_that_only_this_machine_has_end_the_job(tmp_path: Path) -> None:
    """A worker that does not find a file which is here shows that the machines do not share it."""
    (tmp_path / "a.jpg").write_bytes(b"a")
    answers = Answers(labels=("a", "b"), abstain_below=None, top_k=1, model="m", version=1, sha256="")
    import numpy as np

    items = [Item(path="a.jpg", error="no such file"), Item(path="b.jpg", error="no such file")]
    table = answers.table(items, np.empty((0, 2), np.float32))
    ray_data._check_visible(encode_block([SCHEMA.empty_table(), table.slice(1)]), str(tmp_path))
    with pytest.raises(UnfreezeError, match=r"a worker of the cluster cannot see a\.jpg, which is on this machine"):
        ray_data._check_visible(encode_block([table]), str(tmp_path))


def test_our_error_is_found_in_rays() -> None:
    """Whatever it is wrapped in; without one, the first line of Ray's is shown."""
    inner = ModelError("the model failed")
    outer = RuntimeError("a long text")
    outer.__cause__ = ValueError("between")
    outer.__cause__.__context__ = inner
    found = own_error(outer)
    assert (type(found), str(found)) == (ModelError, "the model failed")
    assert found.__context__ is found.__cause__ is found.__traceback__ is None, "it would keep the workers"
    assert str(own_error(RuntimeError("first\nsecond"))) == "the Ray cluster failed: first second"


@pytest.mark.exhaustive
def test_a_lost_node_loses_and_repeats_nothing(folder: Path, images: Path, tmp_path: Path) -> None:
    """A node is killed in the middle: each image has one row, and the file is that of one machine."""
    from bench.predict import ClusterRun

    source = write_table(
        tmp_path / "many.parquet", image=[path.read_bytes() for path in sorted(images.rglob("*.jpg"))] * 20
    )
    command = ["predict", str(source), "--file", str(folder / "models" / "colors")]
    assert run_cli(*command, "--out", tmp_path / "one.parquet").returncode == 1
    started = time.monotonic()
    with ClusterRun() as run:
        killed = run.predict([*command, "--out", str(tmp_path / "two.parquet")], 1200, kill_after_blocks=5)
    assert killed.node_was_killed, time.monotonic() - started
    assert (tmp_path / "two.parquet").read_bytes() == (tmp_path / "one.parquet").read_bytes()
