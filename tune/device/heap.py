"""Keep freed memory in the process, so that the next batch does not request it from the kernel again."""

import ctypes
import os

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # constants of <malloc.h>
_TOP_PAD_BYTES = 64 << 20
_MAX_MMAP_THRESHOLD_BYTES = 32 << 20  # glibc's upper limit


def keep_freed_memory() -> bool:
    """Configure glibc to keep freed blocks of up to 32 MB instead of returning them to the kernel.

    Otherwise activations of a few MB are unmapped and mapped again, page by page, in every step. With this setting, the
    second half of a SqueezeNet trains 1.1 to 1.25 times as fast on two cores. Larger blocks, such as caches, are still
    returned. The setting applies to the whole process, so only commands call this function; other C libraries are left
    unchanged.

    Returns:
        Whether glibc accepted the settings.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    settings = (
        (_MMAP_THRESHOLD, _MAX_MMAP_THRESHOLD_BYTES),
        (_TRIM_THRESHOLD, 2**31 - 1),
        (_TOP_PAD, _TOP_PAD_BYTES),
    )
    return mallopt is not None and all(mallopt(*setting) for setting in settings)
