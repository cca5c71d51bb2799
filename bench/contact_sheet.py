"""The image of the wallpaper groups: one drawn pattern of each, with the tuned model's prediction.

python -m bench.contact_sheet demo/wallpaper docs/wallpaper-groups.jpg
"""

from pathlib import Path

import cyclopts
from PIL import Image, ImageDraw, ImageFont

from unfreeze.demo.wallpaper.dataset import WALLPAPER
from unfreeze.demo.wallpaper.groups import GROUPS
from unfreeze.serve.client.local import LocalClassifier

_SIDE, _TEXT, _COLUMNS = 128, 34, 6
_RIGHT, _WRONG, _GRAY = (20, 120, 40), (190, 40, 30), (90, 90, 90)


def main(demo: Path, out: Path, *, number: int = 1) -> None:
    """Draw the sheet from the files of `unfreeze demo wallpaper`.

    Args:
        demo: folder of the demo.
        out: image to write.
        number: number of the validation image of each group to show.
    """
    newest = max((demo / "models" / WALLPAPER.name).glob("[0-9]*"), key=lambda path: int(path.name))
    files = [next((demo / "images" / "val" / group).glob(f"{number:04}.*")) for group in GROUPS]
    with LocalClassifier(newest / "model.onnx") as model:
        answers = model.predict(files, top_k=1)
    rows = -(-len(GROUPS) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * (_SIDE + 8), rows * (_SIDE + _TEXT + 8)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for index, (group, file, (best,)) in enumerate(zip(GROUPS, files, answers, strict=True)):
        left, top = index % _COLUMNS * (_SIDE + 8) + 4, index // _COLUMNS * (_SIDE + _TEXT + 8) + 4
        with Image.open(file) as image:
            sheet.paste(image.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), (left, top))
        draw.text((left, top + _SIDE + 2), f"drawn: {group}", _GRAY, font)
        color = _RIGHT if best.label == group else _WRONG
        draw.text((left, top + _SIDE + 16), f"predicted: {best.label} ({best.score:.2f})", color, font)
    sheet.save(out, quality=85)


if __name__ == "__main__":
    cyclopts.run(main)
