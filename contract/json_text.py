"""Write JSON that every parser accepts, whatever names files have."""

import json
import re
from typing import Any

_LONE_SURROGATES = re.compile("[\ud800-\udfff]")
_BYTES = range(0xDC80, 0xDD00)  # what Python makes of bytes of a file's name that are not UTF-8


def json_text(document: Any) -> str:
    r"""Write a document as one line of JSON.

    Bytes of file names that are not UTF-8 are written as `\xff`, as in the result of a job: JSON has no bytes, and
    parsers refuse what Python makes of them.

    Args:
        document: of Python's own types.

    Returns:
        Text that can be encoded as UTF-8.
    """
    return _LONE_SURROGATES.sub(_escaped, json.dumps(document, ensure_ascii=False))


def _escaped(found: "re.Match[str]") -> str:
    code = ord(found[0])
    return f"\\\\x{code - 0xDC00:02x}" if code in _BYTES else f"\\\\u{code:04x}"
