"""Documents are JSON whatever names files have."""

import json
import os

from unfreeze.contract.json_text import json_text


def test_names_that_are_not_utf8_are_escaped() -> None:
    """As text: a lone surrogate cannot be encoded, and parsers refuse it. All other letters stay."""
    name = os.fsdecode(b"a\xff\n.jpg")
    text = json_text([{name: name, "label": "größe 😀"}])
    assert json.loads(text.encode()) == [{"a\\xff\n.jpg": "a\\xff\n.jpg", "label": "größe 😀"}]
    assert json.loads(json_text("\ud800")) == "\\ud800"
