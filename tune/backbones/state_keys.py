"""Find a backbone's weights among the keys of a checkpoint, whatever prefix training has put before them."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from unfreeze.contract.counted import counted
from unfreeze.contract.errors import WeightsError

_COMPILED = "_orig_mod."  # torch.compile puts it before the keys of every module that it has wrapped
_AVERAGED = re.compile(r"(^|_)ema(_|$)")
# Contrastive pretraining keeps a second encoder, often a moving average of the one that is trained by gradients.
_SECONDARY = re.compile(r"(^|_)(k|key|momentum|target|student)(_|$)")
_UNUSED_IN_INFERENCE = ".num_batches_tracked"
_SHOWN = 5

State = Mapping[str, Tensor]
Convert = Callable[[State], dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Match:
    """A backbone's weights in a checkpoint.

    Args:
        state: the weights under the backbone's own keys, without a stock classifier.
        entry: the path of the state dict in the file; "" for a bare one.
        prefix: the prefix that was removed from the keys.
        ignored: number of other tensors in the state dict.
    """

    state: dict[str, Tensor]
    entry: str
    prefix: str
    ignored: int

    def __str__(self) -> str:
        """Describe in one line what was read; empty if the file contains only the backbone."""
        read = [f"entry {self.entry!r}"] if self.entry else []
        removed = [f"prefix {self.prefix!r} removed from its keys"] if self.prefix else []
        ignored = [f"{counted(self.ignored, 'other tensor')} ignored"] if self.ignored else []
        return ", ".join([*read, *removed, *ignored])


def match_state(
    states: Mapping[str, State], own: State, classifier_prefixes: tuple[str, ...], convert: Convert, what: str
) -> Match:
    """Find the weights of a backbone in a checkpoint.

    The first state dict that has all keys of the backbone under a common prefix is used. If several prefixes fit,
    an empty one is preferred, then a moving average ("ema"); the second encoder of contrastive methods ("encoder_k",
    "momentum", "target", "student") comes last.

    Args:
        states: state dicts by their path in the file, the preferred one first.
        own: the backbone's state dict.
        classifier_prefixes: prefixes of the keys of its classifiers, which are not needed.
        convert: renames keys of the source's published files.
        what: names the file and the backbone in errors.

    Returns:
        The weights. `num_batches_tracked`, which inference does not use and old files lack, is filled in from `own`.

    Raises:
        WeightsError: keys are missing, or unexpected inside the backbone's own modules, or several prefixes fit.
    """
    wanted = {key for key in own if not key.startswith(classifier_prefixes)}
    entry, prefix, candidate = _find_candidate(states, wanted, convert, what)
    found = {key: value for key, value in candidate.items() if not key.startswith(classifier_prefixes)}
    missing, unexpected = _required(wanted) - found.keys(), _unexpected(found, wanted)
    if missing or unexpected:
        behind = f", under the prefix {prefix!r}" if prefix else ""
        raise WeightsError(
            f"the weights do not fit ({what}){behind}: {_listed('missing', missing)}; "
            f"{_listed('unexpected', unexpected)}"
        )
    used = len(wanted & found.keys()) + len(candidate) - len(found)
    return Match(
        state={key: found.get(key, own[key]) for key in own if key in wanted},
        entry=entry,
        prefix=prefix,
        ignored=len(states[entry]) - used,
    )


def _find_candidate(
    states: Mapping[str, State], wanted: set[str], convert: Convert, what: str
) -> tuple[str, str, dict[str, Tensor]]:
    """Return the entry, prefix and converted state of the best fit: a complete one, else the one with most keys."""
    required = _required(wanted)
    incomplete: list[tuple[int, str, str, dict[str, Tensor]]] = []
    for entry, state in states.items():
        plain = {key.replace(_COMPILED, ""): value for key, value in state.items()}
        found = {prefix: _behind(prefix, plain, convert) for prefix in (*_prefixes(plain, required, convert), "")}
        complete = [prefix for prefix, candidate in found.items() if required <= candidate.keys()]
        if complete:
            prefix = _preferred(complete, what)
            return entry, prefix, found[prefix]
        incomplete += [(len(required & one.keys()), entry, prefix, one) for prefix, one in found.items()]
    _, entry, prefix, candidate = max(incomplete, key=lambda one: one[0])
    return entry, prefix, candidate


def _required(wanted: set[str]) -> set[str]:
    return {key for key in wanted if not key.endswith(_UNUSED_IN_INFERENCE)}


def _prefixes(state: State, required: set[str], convert: Convert) -> set[str]:
    """Return the prefixes under which required keys are found."""
    return {
        key[:start]
        for key in convert(state)
        for start in (0, *(match.end() for match in re.finditer(r"\.", key)))
        if key[start:] in required
    }


def _behind(prefix: str, state: State, convert: Convert) -> dict[str, Tensor]:
    return convert({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})


def _preferred(prefixes: Sequence[str], what: str) -> str:
    ranks = {prefix: _rank(prefix) for prefix in prefixes}
    best = [prefix for prefix in prefixes if ranks[prefix] == min(ranks.values())]
    if len(best) > 1:
        raise WeightsError(
            f"ambiguous weights ({what}): keys with each of the prefixes {', '.join(map(repr, sorted(best)))} fit; "
            "save the weights that you want as a separate state dict"
        )
    return best[0]


def _rank(prefix: str) -> int:
    parts = prefix.split(".")
    if not prefix:
        return 0
    if any(_AVERAGED.search(part) for part in parts):
        return 1
    return 3 if any(_SECONDARY.search(part) for part in parts) else 2


def _unexpected(found: State, wanted: set[str]) -> set[str]:
    """Return keys inside the backbone's own modules that it does not have: those of a larger network, for example.

    If no key fits, all keys are returned.
    """
    if not wanted & found.keys():
        return set(found)
    modules = {key.partition(".")[0] for key in wanted}
    unknown = _required(set(found) - wanted)
    return {key for key in unknown if key.partition(".")[0] in modules}


def _listed(kind: str, keys: Collection[str]) -> str:
    more = f", and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return f"{kind} {'key' if len(keys) == 1 else 'keys'}: {', '.join(sorted(keys)[:_SHOWN]) or 'none'}{more}"
