"""Write the result of a comparison: JSON, and a page if its libraries are installed."""

import json
from pathlib import Path

from unfreeze.compare.result import Comparison
from unfreeze.contract.files import replacing
from unfreeze.pages.libraries import has_libraries

JSON_FILE, PAGE_FILE = "compare.json", "compare.html"


def write_comparison(comparison: Comparison, folder: Path) -> tuple[Path, ...]:
    """Write `compare.json` and `compare.html`; older ones are replaced.

    Args:
        comparison: the result.
        folder: gets the files; created if missing.

    Returns:
        The files that were written: without the page if plotly or Jinja2 is not installed.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    contents = {JSON_FILE: json.dumps(comparison.document(), indent=2, ensure_ascii=False) + "\n"}
    if has_libraries():
        from unfreeze.compare.page import comparison_page

        contents[PAGE_FILE] = comparison_page(comparison)
    for name, text in contents.items():
        with replacing(folder / name) as file:
            file.write(text.encode("utf-8", "backslashreplace"))
    return tuple(folder / name for name in contents)
