"""The results of a benchmark as a page."""

import json
from pathlib import Path

import pytest
from support.browser import accessibility_faults, needs_axe, needs_chromium, opened

from bench.page import main
from unfreeze.contract.errors import UnfreezeError


@needs_chromium
@needs_axe
def test_results_are_a_page_with_tables_that_sort(tmp_path: Path) -> None:
    """One for each list, and one of single figures; names are text."""
    rows = [{"data": "<b>", "seconds": 10.123456}, {"data": "stars", "seconds": 9.5, "note": None}]
    (tmp_path / "a.json").write_text(json.dumps({"runs": rows, "ratios": [0.5, 0.25], "rate": 3}))
    main(tmp_path / "a.json", tmp_path / "a.html", title="Runs")
    with opened((tmp_path / "a.html").as_uri()) as (page, errors, requested):
        assert page.locator("h2").all_text_contents() == ["runs", "ratios", "figures"]
        table = page.locator("table").first
        assert table.locator("tbody tr").first.locator("td").all_text_contents() == ["<b>", "10.12", ""]
        page.get_by_role("button", name="seconds").click()
        assert table.locator("tbody tr td:nth-child(2)").all_text_contents() == ["9.5", "10.12"]
        assert accessibility_faults(page) == []
        assert errors == []
        assert len(requested) == 1


def test_what_is_no_result_is_an_error(tmp_path: Path) -> None:
    """With what is expected."""
    (tmp_path / "a.json").write_text("table")
    with pytest.raises(UnfreezeError, match="expected the output of a benchmark's --json"):
        main(tmp_path / "a.json", tmp_path / "a.html")
