"""Where the network looked: equal to the class activation map, and at the object of drawn images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from support.runs import SPEC

from unfreeze.contract.images.preprocess import PreprocessSpec, prepare
from unfreeze.report.saliency import saliency_maps
from unfreeze.report.thumbnails import heat_uri
from unfreeze.tune.artifacts.checkpoint import load_run
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.backbones.sources import find_backbone
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.run import fine_tune

SIDE, OBJECT = 160, 56


def _network(backbone: str, spec: PreprocessSpec = SPEC) -> Network:
    torch.manual_seed(0)
    network = Network(backbone, find_backbone(backbone).build(spec.shape[:2]), spec, 3).eval()
    torch.nn.init.uniform_(network.head.linear.weight)  # so that some place speaks for every class
    return network


def _pixels(count: int, side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3)).astype(np.uint8)


def test_of_averaged_maps_it_is_the_class_activation_map() -> None:
    """The weights of the class times the activations, without what is negative; for the class that is asked for."""
    network, pixels = _network("squeezenet1_1", PreprocessSpec(resize=(160,), crop=(160, 160))), _pixels(3, 160)
    found = saliency_maps(network, pixels, [2, 0, 1])
    with torch.no_grad():
        maps = network.run_blocks(torch.from_numpy(pixels), 0, len(network.block_names))
        weights = network.head.linear.weight * network.head.inverse_std
        for saliency, activations, label in zip(found, maps, [2, 0, 1], strict=True):
            expected = torch.einsum("f,fyx->yx", weights[label], activations).clamp(min=0)
            assert saliency.shape == (9, 9)
            np.testing.assert_allclose(saliency, expected / expected.max(), atol=1e-5)
    assert saliency_maps(network, pixels[:0], []) == []


@pytest.mark.parametrize(("backbone", "side"), [("timm/vit_tiny_patch16_224", 14), ("swin_t", 7), ("vit_b_32", 7)])
def test_transformers_have_maps_too(backbone: str, side: int) -> None:
    """Of the patches' tokens before the last block, or of maps whose last axis has the features."""
    network = _network(backbone, PreprocessSpec(resize=(224,), crop=(224, 224)))
    found = saliency_maps(network, _pixels(3, 224), [0, 1, 2])
    assert {saliency.shape for saliency in found} == {(side, side)}
    assert max(saliency.max() for saliency in found) == 1
    assert min(saliency.min() for saliency in found) >= 0
    assert np.std(found) > 0.01


def test_the_grid_of_patches_has_the_proportions_of_the_image() -> None:
    """12 rows and 14 columns with a class token are as many tokens as 13 rows and 13 columns."""
    spec = PreprocessSpec(resize=(192, 224), crop=(192, 224))
    (saliency,) = saliency_maps(_network("timm/vit_tiny_patch16_224", spec), _pixels(1, 224)[:, :192], [1])
    assert saliency.shape == (12, 14)


def _draw(kind: str, seed: int) -> tuple[Image.Image, tuple[int, int]]:
    """Draw an object somewhere on noise; return the image, and the left and upper edge of the object."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.normal(120, 12, (SIDE, SIDE, 3)).clip(0, 255).astype(np.uint8))
    left, top = (int(edge) for edge in rng.integers(0, SIDE - OBJECT, 2))
    box, draw = (left, top, left + OBJECT, top + OBJECT), ImageDraw.Draw(image)
    if kind == "disc":
        draw.ellipse(box, (230, 200, 30))
    else:
        for offset in range(0, OBJECT, 14):
            draw.rectangle((left + offset, top, left + offset + 6, top + OBJECT), (20, 30, 160))
    return image, (left, top)


def test_it_points_at_the_object(tmp_path: Path) -> None:
    """The strongest place lies in the object, or beside it, in nine of ten images; by chance in a third."""
    for split, count in (("train", 24), ("val", 4)):
        for kind in ("disc", "stripes"):
            folder = tmp_path / "data" / split / kind
            folder.mkdir(parents=True)
            for seed in range(count):
                _draw(kind, seed + 1000 * (split == "val"))[0].save(folder / f"{seed}.png")
    options = TuneOptions(weights="builtin", image_size=SIDE, crop_pct=1.0, recipe="probe", store_gb=0.0, device="cpu")
    fine_tune(tmp_path / "data", tmp_path / "run", options)
    network, facts = load_run(tmp_path / "run")
    drawn = [(kind, *_draw(kind, 5000 + seed)) for kind in facts.labels for seed in range(20)]
    pixels = np.stack([np.asarray(image) for _, image, _ in drawn])
    maps = saliency_maps(network, pixels, [facts.labels.index(kind) for kind, _, _ in drawn])
    hits = []
    for saliency, (_, _, corner) in zip(maps, drawn, strict=True):
        cell = SIDE / len(saliency)
        place = np.array(np.unravel_index(saliency.argmax(), saliency.shape))[::-1] * cell + cell / 2
        hits.append(all(edge - cell <= at <= edge + OBJECT + cell for at, edge in zip(place, corner, strict=True)))
    assert np.mean(hits) >= 0.9


def test_the_map_covers_what_the_network_sees() -> None:
    """Of a wide image, the square in the middle."""
    import base64
    import io

    spec = PreprocessSpec(resize=(100,), crop=(100, 100))
    uri = heat_uri(np.ones((7, 7), np.float32), Image.new("RGB", (160, 80)), spec)
    heat = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGBA"))[..., 3]
    assert heat.shape == (80, 160)
    assert (heat[:, 40:120] > 150).all()
    assert (heat[:, :40] == 0).all()
    assert (heat[:, 120:] == 0).all()


def test_what_is_prepared_is_what_was_drawn() -> None:
    """At the network's size nothing is resized or cropped, so that places in maps are places in images."""
    import io

    image, _ = _draw("disc", 1)
    file = io.BytesIO()
    image.save(file, "PNG")
    spec = PreprocessSpec(resize=(SIDE,), crop=(SIDE, SIDE))
    np.testing.assert_array_equal(prepare(file.getvalue(), spec), np.asarray(image))
