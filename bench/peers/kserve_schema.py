"""Validate KServe documents with KServe's own models: every key must exist and every value must have its type."""

import re
import sys
from importlib.metadata import version
from pathlib import Path

import kserve
import kubernetes.client
import yaml


def check(kind: str, value: object, place: str) -> int:
    """Check a value against a type name as these packages write it; return the number of values checked."""
    if found := re.fullmatch(r"[lL]ist\[(.+)\]", kind):
        assert isinstance(value, list), f"{place} is not a list"
        return sum(check(found[1], item, f"{place}[{index}]") for index, item in enumerate(value))
    if found := re.fullmatch(r"(?:dict\(|Dict\[)(.+), (.+)[])]", kind):
        assert isinstance(value, dict), f"{place} is not a map"
        return sum(check(found[2], item, f"{place}.{name}") for name, item in value.items())
    model = getattr(kserve, kind, None) or getattr(kserve.models, kind, None) or getattr(kubernetes.client, kind, None)
    if model is None:
        types = {"str": str, "int": int, "bool": bool, "float": float, "object": object}
        kinds = types.get(kind, (str, int, float))  # quantities and ports
        assert isinstance(value, kinds), f"{place} is {value!r}, and should be {kind}"
        return 1
    assert isinstance(value, dict), f"{place} is not a map"
    names = {key: name for name, key in model.attribute_map.items()}
    unknown = set(value) - set(names)
    assert not unknown, f"{kind} at {place} has no {', '.join(sorted(unknown))}"
    return sum(check(model.openapi_types[names[key]], item, f"{place}.{key}") for key, item in value.items())


for document in yaml.safe_load_all(Path(sys.argv[1]).read_text()):
    edition = document["apiVersion"].partition("/")[2]
    model = f"{edition.capitalize()}{document['kind']}"
    print(f"{model}: {check(model, document, '$')} values, all known to kserve {version('kserve')}")
