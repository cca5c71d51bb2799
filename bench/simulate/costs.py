"""What a request costs: CPU time by stage, and bytes."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from unfreeze.contract.errors import OptionsError

MEASURED = Path(__file__).with_name("measured.json")


@dataclass(frozen=True, kw_only=True)
class Costs:
    """CPU seconds of the stages of a request, and sizes.

    Args:
        decode_s: CPU seconds to decode, resize and crop each of a list of images, which arrive in turn.
        infer_s: CPU seconds of the runtime for batches of 1, 2, ... images; larger batches are extrapolated.
        transport_s: CPU seconds a request in the threads that receive and send messages, and that form batches.
        loop_s: CPU seconds a request in the event loop, half of it before and half behind the classification.
        refuse_s: CPU seconds in the event loop for a request that is refused.
        client_s: CPU seconds a request of a load generator on the same cores.
        bridge_s: CPU seconds a request in each of the two event loops between a front end and the models.
        device_s: seconds of an accelerator for batches of 1, 2, ... images, which replace `infer_s`; none is measured.
        image_bytes: mean size of an encoded image.
        pixels_bytes: size of a prepared image.
    """

    decode_s: tuple[float, ...]
    infer_s: tuple[float, ...]
    transport_s: float = 0.0
    loop_s: float = 0.0
    refuse_s: float = 0.0
    client_s: float = 0.0
    bridge_s: float = 0.0
    device_s: tuple[float, ...] = ()
    image_bytes: float = 100e3
    pixels_bytes: float = 224 * 224 * 3

    @property
    def mean_decode_s(self) -> float:
        """Mean CPU seconds to prepare an image."""
        return sum(self.decode_s) / len(self.decode_s)

    def batch_s(self, images: int) -> float:
        """Return the CPU seconds of the runtime for a batch."""
        return _extrapolated(self.infer_s, images)

    def batch_device_s(self, images: int) -> float:
        """Return the accelerator's seconds for a batch."""
        return _extrapolated(self.device_s, images)

    def request_s(self, batch: int = 1) -> float:
        """Return the server's CPU seconds for a request of one encoded image in a batch of this size."""
        infer_s = 0.0 if self.device_s else self.batch_s(batch) / batch
        return self.mean_decode_s + infer_s + self.transport_s + self.loop_s

    def scaled(self, factor: float) -> "Costs":
        """Return the costs of a larger network on the same images: `infer_s` times a factor."""
        return replace(self, infer_s=tuple(factor * seconds for seconds in self.infer_s))


def _extrapolated(seconds: Sequence[float], images: int) -> float:
    if images <= len(seconds):
        return seconds[images - 1]
    if len(seconds) == 1:
        return images * seconds[0]
    step = (seconds[-1] - seconds[0]) / (len(seconds) - 1)
    return seconds[-1] + step * (images - len(seconds))


def read_costs(path: Path) -> tuple[Costs, dict[str, Any]]:
    """Read what `python -m bench.simulate validate --save` wrote.

    Args:
        path: a JSON file.

    Returns:
        The costs, and the whole document.

    Raises:
        OptionsError: it is not such a file.
    """
    try:
        document = json.loads(path.read_text())
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in document["costs"].items()
        }
        return Costs(**values), document
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OptionsError(
            f"{path} holds no costs ({error!r}); expected a file of `python -m bench.simulate validate --save FILE`"
        ) from None


def write_costs(path: Path, costs: Costs, facts: dict[str, Any]) -> None:
    """Write costs and what is known about their measurement.

    Args:
        path: receives JSON.
        costs: the costs.
        facts: other entries of the document.
    """
    rounded = {key: _rounded(value) for key, value in asdict(costs).items()}
    path.write_text(json.dumps({"costs": rounded, **facts}, indent=1) + "\n")


def _rounded(value: Any) -> Any:
    return [_rounded(one) for one in value] if isinstance(value, tuple) else float(f"{value:.6g}")
