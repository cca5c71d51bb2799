"""What this machine's processor is."""

import hashlib
import platform
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")
_NAMES = ("model name", "model")  # of x86; of some ARM boards, which have no "model name"
# On which the speed and the choice of kernels depend: of x86, then of ARM, where cores can differ.
_FIELDS = (
    "vendor_id",
    "cpu family",
    "model",
    "model name",
    "stepping",
    "flags",
    "features",
    "cpu implementer",
    "cpu part",
)


def processor_name() -> str:
    """Return the processor's name, or its architecture."""
    found = dict(_fields())
    return next((found[name] for name in _NAMES if name in found), platform.processor() or platform.machine())


def processor_digest() -> str:
    """Return a digest of the properties on which the speed and the choice of kernels depend, of all cores."""
    properties = sorted({f"{name}: {value}" for name, value in _fields() if name in _FIELDS})
    return hashlib.sha256("\n".join([platform.machine(), *(properties or [platform.processor()])]).encode()).hexdigest()


def _fields() -> list[tuple[str, str]]:
    """Read names, in lower case, and values; none where the system is not Linux."""
    try:
        lines = _CPU_INFO.read_text(errors="replace").splitlines()
    except OSError:
        return []
    pairs = (line.partition(":") for line in lines)
    return [(name.strip().lower(), value.strip()) for name, _, value in pairs if value]
