"""`unfreeze cache`."""

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators
from rich.table import Column, Table
from rich.text import Text

from unfreeze.console import RESULTS, print_json
from unfreeze.contract.counted import counted
from unfreeze.contract.errors import OptionsError
from unfreeze.tune.options import DEFAULT_STORE_GB

if TYPE_CHECKING:
    from unfreeze.tune.store.summary import SpaceSummary

_DAY_SECONDS = 86_400
_FLAG = Parameter(negative="")

EXAMPLES = """Examples:

    unfreeze cache
    unfreeze cache --json
    unfreeze cache --clear --older-than 30
"""


def cache(
    *,
    clear: Annotated[bool, _FLAG] = False,
    older_than: Annotated[float | None, Parameter(validator=validators.Number(gte=0))] = None,
    json: Annotated[bool, _FLAG] = False,
) -> None:
    """Show or clear what earlier runs computed: features, results of comparing backbones, and choices of runtimes.

    They are in the user's cache folder, or in the folder that the environment variable UNFREEZE_CACHE_DIR names. A run
    that is going on continues when they are cleared.

    Args:
        clear: delete what is stored.
        older_than: with --clear, delete only what was not used for this many DAYS.
        json: print JSON to standard output instead of a table.

    Raises:
        OptionsError: --older-than is given without --clear.
    """
    from unfreeze.compare.stored import clear_results, comparisons_folder, list_results
    from unfreeze.serve.runtimes.chosen import choices_folder
    from unfreeze.tune.store.folder import clear as clear_folder
    from unfreeze.tune.store.folder import store_folder
    from unfreeze.tune.store.summary import summarize

    if older_than is not None and not clear:
        raise OptionsError("--older-than says what --clear deletes; give both of them")
    folder, compared, chosen = store_folder(), comparisons_folder(), choices_folder()
    freed = 0
    if clear:
        unused_since = math.inf if older_than is None else time.time() - older_than * _DAY_SECONDS
        freed = clear_folder(folder, unused_since=unused_since)
        freed += sum(clear_results(one, unused_since=unused_since) for one in (compared, chosen))
    results, choices = list_results(compared), list_results(chosen)
    spaces = summarize(folder)
    total = sum(space.size_bytes for space in spaces)
    if json:
        described = [dataclasses.asdict(space) for space in spaces]
        bound = round(DEFAULT_STORE_GB * 1e9)
        sizes = {"bytes": total, "bound_bytes": bound, "freed_bytes": freed}
        comparisons = {"folder": str(compared), "results": len(results)}
        runtimes = {"folder": str(chosen), "choices": len(choices)}
        stored = {"folder": str(folder), "spaces": described, **sizes}
        print_json({**stored, "comparisons": comparisons, "runtimes": runtimes})
        return
    if clear:
        RESULTS.print(f"{freed / 1e6:,.1f} MB deleted", markup=False)
    RESULTS.print(_table(spaces))
    RESULTS.print(
        f"{folder}: {total / 1e9:.2f} GB; tune keeps it below --store-gb, by default {DEFAULT_STORE_GB:g} GB",
        markup=False,
    )
    RESULTS.print(f"{compared}: {counted(len(results), 'result')} of comparing backbones", markup=False)
    RESULTS.print(f"{chosen}: {counted(len(choices), 'choice')} of --device auto", markup=False)


def _table(spaces: "Sequence[SpaceSummary]") -> Table:
    folded = {name: Column(name, overflow="fold") for name in ("backbone", "cuts")}
    numbers = (Column(name, justify="right") for name in ("images", "MB", "days unused"))
    table = Table(folded["backbone"], "weights", "size", Column("precision", no_wrap=True), folded["cuts"], *numbers)
    for space in spaces:
        size = "" if space.image_size is None else f"{space.image_size[0]} x {space.image_size[1]}"
        texts = (space.backbone, space.weights, size, space.precision, ", ".join(space.cuts))
        unused = max(0.0, time.time() - space.last_used) / _DAY_SECONDS
        table.add_row(*map(Text, texts), f"{space.images:,}", f"{space.size_bytes / 1e6:,.1f}", f"{unused:.1f}")
    return table
