"""The map of the images: components, its figure, tiles, and a damaged file."""

import base64
import io
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from PIL import Image
from support.images import COLORS, draw_image

from unfreeze.contract.errors import CheckpointError
from unfreeze.report.embedding import Embedding, embedding_figure, possible, project, read_embedding
from unfreeze.report.thumbnails import tile_sheets
from unfreeze.tune.artifacts.embedding import choose_embedded
from unfreeze.tune.features.components import PrincipalComponents


def test_components_are_those_of_standardized_features() -> None:
    """The largest variance first, uncorrelated; also of features that were not seen; constant features do not count."""
    torch.manual_seed(0)
    hidden = torch.randn(200, 3) * torch.tensor([9.0, 3.0, 1.0])
    features = torch.cat([hidden @ torch.randn(3, 60) + 5, torch.full((200, 1), 7.0)], 1)
    components = PrincipalComponents.fit(features)
    found = components.of(features)
    assert found.shape == (200, 50)
    spread = found.std(0)
    assert (spread.diff() <= 1e-4).all()
    assert spread[3] < 1e-3 * spread[0]
    correlations = np.corrcoef(found[:, :3].numpy().T)
    np.testing.assert_allclose(correlations, np.eye(3), atol=1e-3)
    torch.testing.assert_close(components.of(features[:1] + 0), found[:1])
    assert PrincipalComponents.fit(features[:4]).of(features).shape == (200, 4)


def test_images_are_chosen_evenly() -> None:
    """All if there are few."""
    assert choose_embedded(5).tolist() == [0, 1, 2, 3, 4]
    assert choose_embedded(6000, "val").tolist() == list(range(0, 6000, 2))
    assert len(choose_embedded(1_000_000)) == 7000
    assert choose_embedded(0).tolist() == []


def _embedding(count: int, classes: int) -> Embedding:
    rng = np.random.default_rng(0)
    labels = np.arange(count) % classes
    points = rng.normal(size=(count, 8)) + 12 * np.eye(8)[labels % 8]
    return Embedding(
        paths=tuple(f"{number}.jpg" for number in range(count)),
        splits=tuple("val" if number % 5 == 0 else "train" for number in range(count)),
        labels=tuple(f"<{label}>" for label in labels),
        components=points.astype(np.float32),
    )


def test_few_classes_have_an_entry_each_in_the_legend() -> None:
    """Training images as dots, validation images as circles, mistakes as crosses; names are text."""
    embedding = _embedding(60, 3)
    classes = ["<0>", "<1>", "<2>"]
    figure = embedding_figure(embedding, project(embedding, "pca"), frozenset(["5.jpg"]), classes)
    go.Figure(figure)
    assert [trace["name"] for trace in figure["data"]] == ["&lt;0>", "&lt;1>", "&lt;2>"]
    rows = [row for trace in figure["data"] for row in trace["customdata"]]
    symbols = [symbol for trace in figure["data"] for symbol in trace["marker"]["symbol"]]
    shown = dict(zip(rows, symbols, strict=True))
    assert sorted(rows) == list(range(60))
    assert [shown[row] for row in (0, 1, 5)] == ["circle-open", "circle", "x"]
    np.testing.assert_allclose(figure["data"][1]["x"], embedding.components[1::3, 0], atol=1e-3)


def test_many_classes_are_told_apart_by_pointing_at_them() -> None:
    """And many images are drawn by WebGL."""
    embedding = _embedding(2000, 40)
    classes = [f"<{number}>" for number in range(40)]
    figure = embedding_figure(embedding, project(embedding, "pca"), frozenset(), classes)
    assert [trace["name"] for trace in figure["data"]] == ["training images", "validation images"]
    assert {trace["type"] for trace in figure["data"]} == {"scattergl"}


def test_tsne_keeps_neighbors_together() -> None:
    """Eight groups in eight dimensions: nearest neighbors in the plane have the same label."""
    embedding = _embedding(200, 8)
    plane = project(embedding, "tsne")
    distances = np.linalg.norm(plane[:, None] - plane, axis=2) + 1e9 * np.eye(200)
    labels = np.array(embedding.labels)
    assert np.mean(labels[distances.argmin(1)] == labels) > 0.98
    assert possible(embedding, "tsne") == "tsne"
    assert possible(_embedding(4, 2), "tsne") == "pca"
    assert project(_embedding(4, 2), "pca").shape == (4, 2)


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    """With its name; a run without the file has no map."""
    assert read_embedding(tmp_path) is None
    for content in (b"PK\x03\x04", b"", b"text"):
        (tmp_path / "embedding.npz").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"embedding\.npz is damaged"):
            read_embedding(tmp_path)


def test_tiles_are_in_the_order_of_the_images(tmp_path: Path) -> None:
    """32 in a row, whole images, gray where one is missing; small tiles for many images."""
    paths = []
    for number in range(40):
        paths.append(tmp_path / f"{number}.png")
        draw_image(list(COLORS.values())[number % 3], number, (90, 45)).save(paths[-1])
    paths[33].unlink()
    (sheet,) = (Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) for uri in tile_sheets(paths))
    assert sheet.size == (32 * 64, 2 * 64)
    values = np.asarray(sheet).astype(int)
    for number in (0, 1, 2, 31, 32, 39):
        x, y = number % 32 * 64, number // 32 * 64
        color = values[y + 24 : y + 40, x + 8 : x + 56].mean((0, 1))
        np.testing.assert_allclose(color, list(COLORS.values())[number % 3], atol=25)
    np.testing.assert_allclose(values[64:128, 64:128].mean((0, 1)), 128, atol=8)
