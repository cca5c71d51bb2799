"""Which modules of this package a program needs, read from its import statements.

Imports inside of functions count, because a device must never miss one; those for type checkers do not.
"""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_PACKAGE = __name__.partition(".")[0]


@dataclass(frozen=True, kw_only=True)
class NeededModules:
    """What a program imports.

    Args:
        files: the modules of this package, by their path in it, like `unfreeze/device/model.py`.
        others: top-level names of all other modules that are imported somewhere, the standard library's too.
    """

    files: dict[str, Path]
    others: frozenset[str]


def find_modules(entries: Sequence[str]) -> NeededModules:
    """Follow the imports of some modules through this package.

    Args:
        entries: full names of the modules to start from.
    """
    found: dict[str, Path] = {}
    others: set[str] = set()
    pending = list(entries)
    while pending:
        name = pending.pop()
        if name.partition(".")[0] != _PACKAGE:
            others.add(name.partition(".")[0])
            continue
        file = _file_of(name)
        if file is None or name in found:
            continue
        found[name] = file
        pending += [name.rpartition(".")[0]] * ("." in name)
        pending += _imports(ast.parse(file.read_bytes()))
    return NeededModules(
        files={f"{_PACKAGE}/{file.relative_to(_ROOT).as_posix()}": file for file in found.values()},
        others=frozenset(others),
    )


def _file_of(name: str) -> Path | None:
    """Find the file of a module; None for a name inside of a module."""
    path = _ROOT.joinpath(*name.split(".")[1:])
    candidates = (path / "__init__.py", path.with_suffix(".py"))
    return next((file for file in candidates if file.is_file()), None)


def _imports(tree: ast.AST) -> Iterator[str]:
    """Yield what a module imports; of `from a import b`, both `a` and `a.b`, which may be a module."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None  # noqa: S101 - there are no relative imports here
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from _imports(node)
