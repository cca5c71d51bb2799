"""The GPU benchmark: everything but CUDA runs here, and promises are evaluated on made-up figures."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from support.images import write_images

from bench.gpu.load import shares
from bench.gpu.machine import describe_machine, gpu_named, sampled_utilization
from bench.gpu.networks import PHOTOGRAPH_PX, draw_photographs
from bench.gpu.options import GpuOptions
from bench.gpu.part import FAILED, LEFT_OUT, Finding, Part, run_part
from bench.gpu.promises import CACHED, DECODED, promises
from bench.gpu.report import Report
from bench.gpu.tests import marked_files, run_tests
from bench.perf_analyzer import drive

ROOT = Path(__file__).parents[2]
MODEL = "mobilenet_v3_small"
SMALL = ("--quick", "--backbones", MODEL, "--tuned", MODEL, "--precisions", "fp32", "--each-s", "0.1", "--json")
NVIDIA_SMI = """#!/bin/sh
case "$1" in
  *name*) echo "NVIDIA Made Up, 999.1" ;;
  *utilization*) echo "37" ;;
  *) exit 1 ;;
esac
"""
PERF_ANALYZER = """#!/bin/sh
while [ "$1" != "-f" ]; do shift; done
printf 'Concurrency,Inferences/Second,p50 latency,p99 latency\\n16,250.5,4000,9000\\n' > "$2"
"""


def _program(folder: Path, name: str, content: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(content)
    path.chmod(0o755)
    return path


def _bench(*arguments: str, path: str = "") -> tuple[int, dict[str, list[Finding]], str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PATH": path + os.environ["PATH"]}
    command = [sys.executable, "-m", "bench.gpu", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False, timeout=280)
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


@pytest.fixture
def small(tmp_path: Path) -> list[str]:
    """Arguments for a minimal benchmark on small images of three colors."""
    for split, first in (("train", 0), ("val", 500)):
        write_images(tmp_path / "images" / split, 5, first)
    return [*SMALL, "--images", str(tmp_path / "images")]


@pytest.fixture
def part(tmp_path: Path) -> Part:
    """A part with its own folder."""
    setting = GpuOptions(device="cpu", quick=True).setting(tmp_path)
    return Part("made_up", setting)


def _findings(part: Part) -> list[Finding]:
    return [json.loads(line) for line in (Path(part.setting.folder) / "made_up.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_everything_but_cuda_runs_on_a_cpu(small: list[str]) -> None:
    """Every part returns rows with positive figures; missing tools are listed, and no promise is evaluated."""
    code, found, log = _bench("--device", "cpu", *small)
    assert (code, found.get("failed")) == (0, []), log
    rows = found["rows"]
    assert all(row["per_s"] > 0 for row in rows if "per_s" in row)
    assert [row["batch"] for row in rows if row["kind"] == "raw"] == [1, 8]
    served = [row for row in rows if row["kind"] == "served"]
    assert {(row["input"], row["concurrency"]) for row in served} == {
        (kind, count) for kind in ("pixels", "jpeg") for count in (1, 4)
    }
    assert all(row["infer_ms"] > 0 and row["p99_ms"] >= row["p50_ms"] > 0 and not row["failed"] for row in served)
    assert all((row["decode_ms"] > 0) == (row["input"] == "jpeg") for row in served)
    (agreed,) = (row for row in rows if row["kind"] == "agree")
    assert (agreed["same_top1"], agreed["largest_difference"]) == (1, 0)
    assert agreed["labels_seen"] == 3
    assert len([row for row in rows if row["kind"] == "tuned" and row["peak_mb"] > 0]) == 2 * 3
    assert {CACHED, DECODED} < {row["source"] for row in rows if row["kind"] == "epoch"}
    assert "perf_analyzer" in {one["what"] for one in found["left_out"]}
    unmeasured = [one["text"] for one in found["promises"] if one["kept"] is None]
    assert unmeasured == ["resnet50, batches of 32: fp16 times as fast as fp32"]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_missing_requirements_of_a_gpu_are_listed(small: list[str], tmp_path: Path) -> None:
    """A GPU without CUDA packages: nothing is measured, nothing fails, and the reasons are listed."""
    _program(tmp_path / "bin", "nvidia-smi", NVIDIA_SMI)
    code, found, log = _bench(*small, path=f"{tmp_path}/bin:")
    assert code == 0, log
    assert (found["machine"]["GPU"], found["machine"]["driver"]) == ("NVIDIA Made Up", "999.1")
    assert found["rows"] == found["failed"] == []
    reasons = {one["what"]: one["reason"] for one in found["left_out"]}
    assert "CUDAExecutionProvider" in reasons["models on cuda, and serving them"]
    assert "no usable GPU" in reasons["training"]
    assert {one["kept"] for one in found["promises"]} == {None}


def test_without_a_gpu_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit code is 1, before anything is measured."""
    _program(tmp_path / "bin", "nvidia-smi", "#!/bin/sh\nexit 9\n")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    assert gpu_named() == ("", "")
    code, found, log = _bench()
    assert (code, found) == (1, {})
    assert "nvidia-smi finds no NVIDIA GPU" in log


def _raw(precision: str, batch: int, per_s: float) -> Finding:
    return {"kind": "raw", "model": f"resnet50 {precision} on cuda", "batch": batch, "per_s": per_s}


def _served(kind: str, per_s: float, concurrency: int = 256) -> Finding:
    times = {"queue_ms": 1.0, "decode_ms": 2.0, "infer_ms": 3.0, "mean_batch": 4.0, "p50_ms": 5.0, "p99_ms": 6.0}
    where = {"input": kind, "concurrency": concurrency, "failed": {}, "gpu_percent": 55.0}
    return {"kind": "served", "model": "resnet50 fp16", "per_s": per_s, **where, **times}


def _good() -> list[Finding]:
    agreed = {"images": 42, "same_top1": 1.0, "labels_seen": 9}
    return [
        _raw("fp16", 32, 900.0),
        _raw("fp16", 128, 1000.0),
        _raw("fp32", 32, 500.0),
        {"kind": "agree", "model": "fp32", "precision": "fp32", "largest_difference": 1e-3, **agreed},
        {"kind": "agree", "model": "fp16", "precision": "fp16", "largest_difference": 1e-2, **agreed},
        {"kind": "decode", "model": "resnet50 fp16", "per_s": 500.0, "processes": 16},
        _served("pixels", 1.0, concurrency=1),
        _served("pixels", 800.0),
        _served("jpeg", 400.0),
        {"kind": "epoch", "model": "resnet50", "source": CACHED, "seconds": 1.0, "per_s": 1.0},
        {"kind": "epoch", "model": "resnet50", "source": DECODED, "seconds": 10.0, "per_s": 1.0},
    ]


def _report(findings: list[Finding], device: str = "cuda") -> Report:
    return Report(machine={"GPU": "made up"}, device=device, findings=findings)


def test_promises_at_their_limit_are_kept() -> None:
    """Every promise exactly at its limit."""
    judged = promises(_good(), "cuda")
    assert all(promise.kept for promise in judged)
    assert [promise.value for promise in judged] == [1, 1e-3, 1, 1e-2, 0.8, 0.8, 1.8, 10]
    assert _report(_good()).exit_code == 0


@pytest.mark.parametrize(
    ("number", "changes", "text"),
    [
        (0, {"per_s": 899.0}, "fp16 times as fast"),
        (1, {"per_s": 1001.0}, "pixels served"),
        (3, {"largest_difference": 1.1e-3}, "largest difference"),
        (3, {"largest_difference": float("nan")}, "largest difference"),
        (4, {"same_top1": 0.99}, "same top-1 labels"),
        (5, {"per_s": 501.0}, "jpeg served"),
        (7, {"per_s": 799.0}, "pixels served"),
        (9, {"seconds": 1.01}, "on the cache"),
    ],
)
def test_one_figure_breaks_only_its_promise(number: int, changes: Finding, text: str) -> None:
    """The exit code is 1 on a GPU, and 0 on a CPU, for which nothing is promised."""
    findings = _good()
    findings[number] |= changes
    (broken,) = (promise.text for promise in promises(findings, "cuda") if not promise.kept)
    assert text in broken
    assert (_report(findings).exit_code, _report(findings, "cpu").exit_code) == (1, 0)


@pytest.mark.parametrize(("kind", "code"), [(FAILED, 1), (LEFT_OUT, 0)])
def test_only_failures_change_the_exit_code(kind: str, code: int) -> None:
    """Failures and omissions are both in the table with their reasons."""
    report = _report([*_good(), {"kind": kind, "part": "raw", "what": "int8", "reason": "made up"}])
    assert report.exit_code == code
    last = [list(column.cells)[-1] for column in report.table().columns]
    assert [str(last[0]), str(last[1]), str(last[-1])] == [kind, "int8", "made up"]


def test_the_table_has_a_row_for_every_finding_and_promise() -> None:
    """Rows of a server show its share of the limit."""
    table = _report(_good()).table()
    columns = {str(column.header): [str(cell) for cell in column.cells] for column in table.columns}
    assert len(columns["part"]) == len(_good()) + 8
    shares_shown = dict(zip(columns["what"], columns["of the limit"], strict=True))
    assert shares_shown["resnet50 fp16, jpeg, 256 in flight"] == "0.80"
    assert "GPU busy 55 %" in " ".join(columns["more"])


def test_a_missing_package_is_an_omission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is named, and the part does not fail."""
    _part_of(tmp_path, monkeypatch, "    import no_such_package\n")
    (found,) = run_part("made_up", GpuOptions(device="cpu", quick=True).setting(tmp_path), 30)
    assert (found["kind"], found["reason"]) == (LEFT_OUT, "the package no_such_package is not installed")


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        ("os.kill(os.getpid(), 9)", FAILED, "exit code -9"),
        ("raise ValueError('made up')", FAILED, "made up"),
        ("time.sleep(60)", LEFT_OUT, "not finished after 4 s"),
    ],
)
def test_findings_survive_their_part(
    body: str, kind: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that is killed, fails or exceeds its time keeps what it recorded before."""
    _part_of(tmp_path, monkeypatch, f"    part.note('row', per_s=1)\n    {body}\n")
    found = run_part("made_up", GpuOptions(device="cpu", quick=True).setting(tmp_path), 4 if "sleep" in body else 30)
    assert [one["kind"] for one in found] == ["row", kind]
    assert found[1]["reason"] == reason


def _part_of(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Create a part `made_up` that child processes import from `bench.gpu`."""
    (folder / "sitecustomize.py").write_text(f"import bench.gpu\nbench.gpu.__path__.append({str(folder)!r})\n")
    (folder / "made_up.py").write_text(f"import os, time\ndef measure(part):\n{body}")
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{ROOT}")
    monkeypatch.chdir(ROOT)


def test_marked_tests_are_counted_with_reasons(part: Part, tmp_path: Path) -> None:
    """One test passes, one fails, one is skipped; a file without the marker is not collected."""
    tests = {"passes": "pass", "fails": "assert 1 == 2", "skipped": "pytest.skip('it needs much')"}
    content = "import pytest\n" + "".join(
        f"@pytest.mark.gpu\ndef test_{name}():\n    {body}\n" for name, body in tests.items()
    )
    (tmp_path / "test_marked.py").write_text(content)
    (tmp_path / "test_other.py").write_text("import no_such_package\n")
    run_tests(part, marked_files(tmp_path))
    found = {one["kind"]: one for one in _findings(part)}
    assert [found["tests"][name] for name in ("passed", "failed", "skipped")] == [1, 1, 1]
    assert (found[FAILED]["what"], found[LEFT_OUT]["reason"]) == ("test_fails", "it needs much")


def test_utilization_is_sampled_while_the_body_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By nvidia-smi without NVIDIA's library; on a CPU nothing is sampled."""
    _program(tmp_path / "bin", "nvidia-smi", NVIDIA_SMI)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert describe_machine("cuda")["GPU"] == "NVIDIA Made Up"
    with sampled_utilization("cuda") as seen:
        _wait_until(lambda: len(seen) > 1)
    assert set(seen) == {37.0}
    with sampled_utilization("cpu") as seen:
        pass
    assert seen == []


def _wait_until(done: Callable[[], bool]) -> None:
    for _ in range(500):
        if done():
            return
        subprocess.run(["sleep", "0.02"], check=True)
    raise AssertionError("the condition was never met")


def test_reads_perf_analyzers_figures(tmp_path: Path) -> None:
    """Figures are in microseconds; on failure its message is in the error."""
    program = _program(tmp_path, "perf_analyzer", PERF_ANALYZER)
    assert drive(str(program), "host:1", "model", 16, 1000) == {"per_s": 250.5, "p50_ms": 4.0, "p99_ms": 9.0}
    broken = _program(tmp_path, "broken", "#!/bin/sh\necho made up >&2\nexit 3\n")
    with pytest.raises(RuntimeError, match="exited with code 3: made up"):
        drive(str(broken), "host:1", "model", 16, 1000)


@pytest.mark.parametrize(("callers", "expected"), [(1, [1, 0, 0]), (4, [2, 1, 1]), (256, [86, 85, 85])])
def test_callers_are_distributed_evenly(callers: int, expected: list[int]) -> None:
    """No caller is lost."""
    assert shares(callers, 3) == expected


def test_drawn_images_are_as_large_as_photographs(tmp_path: Path) -> None:
    """Every kind has training and validation images."""
    draw_photographs(tmp_path, 4)
    assert [len(list((tmp_path / split).glob("*/*.jpg"))) for split in ("train", "val")] == [14, 3 * 14]
    with Image.open(next(tmp_path.rglob("*.jpg"))) as image:
        assert image.size == PHOTOGRAPH_PX
