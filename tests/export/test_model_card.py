"""The model card: what is in it, and that names in it are text."""

from typing import Any

from unfreeze.export.model_card import CARD_FILE, card_sections

SCORES = {"images": 5, "recall": 0.6, "precision": None}
METRICS: dict[str, Any] = {
    "backbone": "torchvision/squeezenet1_0",
    "parameters": 1000,
    "trained_parameters": 125,
    "recipe": "last-blocks",
    "cut": "features.7",
    "weights_license": "BSD-3-Clause",
    "labels": ["ant", "bee|<b>", "cat"],
    "images": {"train": 1234, "val": 30},
    "sizes": {"width": [10, 20, 30], "height": [1, 2, 3]},
    "findings": [{"text": "2 images nearly equal another image"}],
    "val_accuracy": 0.9,
    "val_balanced_accuracy": 0.8,
    "probe_val_accuracy": 0.7,
    "probe_val_balanced_accuracy": 0.6,
    "standard_errors": {
        f"{split}_{kind}": 0.01 for split in ("val", "probe_val") for kind in ("accuracy", "balanced_accuracy")
    },
    "calibration_error": {"before": 0.2, "after": 0.05},
    "abstain": None,
    "per_class": {
        "ant": {"images": 25, "recall": 0.9, "precision": 0.8},
        "bee|<b>": SCORES,
        "cat": SCORES | {"images": 0},
    },
}
PROVENANCE = {"weights": "file.pth", "weights_sha256": "abc", "seed": 3, "versions": {"torch": "2.15"}}


def test_says_what_is_known() -> None:
    """Intended use is left to the user; the worst class comes first; small classes are a limit."""
    sections = {section.title: section for section in card_sections(METRICS, PROVENANCE)}
    assert list(sections) == ["Intended use", "Model", "Data", "Figures", "Limits"]
    assert sections["Intended use"].lines[0].startswith("To be filled in")
    model = " ".join(sections["Model"].lines)
    assert "1,000 parameters, of which 125 (12.5%) were trained" in model
    assert "file.pth, SHA-256 abc" in model
    assert "license of the pretrained weights: BSD-3-Clause" in model
    data = " ".join(sections["Data"].lines)
    assert "1,234 training images; 30 validation images; 3 classes" in data
    assert "width 10 to 30 pixels, median 20" in data
    assert "nearly equal" in data
    figures = sections["Figures"]
    assert "validation accuracy: 90.0% (standard error 1.0%)" in figures.lines[0]
    assert figures.columns[0] == "class (the 2 with the lowest recall)"
    assert figures.rows == (("bee|<b>", "5", "0.600", "none"), ("ant", "25", "0.900", "0.800"))
    assert any("2 classes have fewer than 20 validation images" in line for line in sections["Limits"].lines)
    unknown = card_sections(METRICS | {"weights_license": ""}, PROVENANCE)[1]
    assert "not known: find out" in " ".join(unknown.lines)


def test_is_published_with_the_model(published: Any) -> None:
    """Listed in SHA256SUMS, with what was measured of the exported file."""
    text = (published.path.parent / CARD_FILE).read_text()
    assert text.startswith(f"# {published.name}\n")
    assert "## Exported file" in text
    assert f"{published.manifest.precision} ONNX; input: images of" in text
    assert f"  {CARD_FILE}" in (published.path.parent / "SHA256SUMS").read_text()


def test_names_are_text_in_markdown() -> None:
    """Neither tables nor tags can be broken."""
    from unfreeze.export.model_card import _markdown

    text = _markdown(card_sections(METRICS, PROVENANCE)[3])
    assert "| bee\\|\\<b\\> | 5 | 0.600 | none |" in text
