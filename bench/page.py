"""The results of a benchmark as a page, in the style of the report of a run.

python -m bench.tune --weights FILE --json > tune.json
python -m bench.page tune.json tune.html --title "unfreeze and fastai"

Every benchmark prints its results with `--json`: a list of objects, or an object with such lists.
"""

import json
from pathlib import Path
from typing import Any

import cyclopts

from unfreeze.console import RESULTS
from unfreeze.contract.errors import UnfreezeError
from unfreeze.pages.rendering import render


def main(results: Path, page: Path, *, title: str | None = None) -> None:
    """Write the page: a table that sorts for each list of results.

    Args:
        results: file with what a benchmark printed with --json.
        page: the HTML file to write.
        title: of the page; by default the name of the results.
    """
    try:
        document = json.loads(results.read_bytes())
    except (OSError, ValueError) as error:
        raise UnfreezeError(f"{results} cannot be read: {error}; expected the output of a benchmark's --json") from None
    named = {"results": document} if isinstance(document, list) else document
    lists = {name: rows for name, rows in named.items() if isinstance(rows, list) and rows}
    single = {name: value for name, value in named.items() if not isinstance(value, list)}
    tables = [_table(name, rows) for name, rows in lists.items()] + ([_table("figures", [single])] if single else [])
    html = render("tables.html.j2", title=title or results.stem, summary=str(results), tables=tables)
    page.write_text(html, encoding="utf-8")
    RESULTS.print(f"written: {page}", markup=False)


def _table(name: str, rows: list[Any]) -> dict[str, Any]:
    objects = [row if isinstance(row, dict) else {name: row} for row in rows]
    titles = list(dict.fromkeys(title for row in objects for title in row))
    numbers = {title for title in titles if all(isinstance(row.get(title, 0), int | float) for row in objects)}
    return {
        "name": name.replace("_", " "),
        "columns": [{"title": title.replace("_", " "), "number": title in numbers} for title in titles],
        "rows": [[_cell(row.get(title, "")) for title in titles] for row in objects],
    }


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    cyclopts.run(main)
