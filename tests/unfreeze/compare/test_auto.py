"""`--backbone auto` outside of a new run."""

from pathlib import Path

import pytest

from unfreeze.compare.auto import choose_backbone
from unfreeze.compare.options import CompareOptions
from unfreeze.contract.errors import OptionsError, WeightsError
from unfreeze.contract.reporting import Silent
from unfreeze.tune.artifacts.resume import ResumeState
from unfreeze.tune.backbones.sources import find_backbone
from unfreeze.tune.options import TuneOptions

AUTO = TuneOptions(backbone="auto", epochs=5)


def test_a_resumed_run_keeps_its_backbone(tmp_path: Path) -> None:
    """Nothing is compared again: a latency may differ, and with it the recommendation."""
    started = TuneOptions(backbone="squeezenet1_1", weights="none", backbone_reason="Take it.", epochs=5)
    (tmp_path / "run").mkdir()
    ResumeState(tmp_path / "run").begin(started, {}, "")
    found = choose_backbone(tmp_path / "nowhere", tmp_path / "run", AUTO, CompareOptions(), Silent(), resume=True)
    assert found == started


def test_weights_need_a_backbone(tmp_path: Path) -> None:
    """One file cannot be the weights of several backbones."""
    options = TuneOptions(backbone="auto", weights="model.pth")
    with pytest.raises(OptionsError, match=r"--weights model\.pth belongs to one backbone"):
        choose_backbone(tmp_path, tmp_path / "run", options, CompareOptions(), Silent())


def test_auto_is_no_backbone_elsewhere() -> None:
    """In Python, with torchrun and in `unfreeze plan`, the message says what to do instead."""
    with pytest.raises(WeightsError, match=r"run unfreeze compare .* and give the backbone that it recommends"):
        find_backbone("auto")
