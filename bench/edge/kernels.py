"""Which vector instructions ONNX Runtime executes, from QEMU's list of translated code.

QEMU translates code when it is executed for the first time and can write down what it has translated. Whatever lies in
the memory of ONNX Runtime's library and was translated has run. Instructions are told apart by their encodings, since
the disassembler of QEMU 7 does not know those of Armv8.2 and later.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

_LINE = re.compile(r"^0x([0-9a-f]+):\s+([0-9a-f]{8})\s")
# Mask and value of encodings, from the Arm Architecture Reference Manual for A-profile, "Advanced SIMD": by vector, and
# by element.
ENCODINGS = {
    "fp32": ((0xBFE0FC00, 0x0E20CC00), (0xBFC0F400, 0x0F801000), (0xBFE0FC00, 0x2E20DC00)),  # FMLA, FMUL
    "fp16": ((0xBFE0FC00, 0x0E400C00), (0xBFC0F400, 0x0F001000), (0xBFE0FC00, 0x2E401C00)),  # FMLA, FMUL
    "bf16": ((0xFFE0FC00, 0x6E40EC00),),  # BFMMLA
    "widening": (  # SMLAL, UMLAL; SMULL, UMULL
        *((0x9F20FC00, 0x0E208000), (0x9F00F400, 0x0F002000)),
        *((0x9F20FC00, 0x0E20C000), (0x9F00F400, 0x0F00A000)),
    ),
    "dot product": (  # SDOT, UDOT; USDOT
        *((0x9FE0FC00, 0x0E809400), (0x9FC0F400, 0x0F80E000)),
        *((0xBFE0FC00, 0x0E809C00), (0xBFC0F400, 0x0F80F000)),
    ),
    "i8mm": ((0xDFE0FC00, 0x4E80A400), (0xFFE0FC00, 0x4E80AC00)),  # SMMLA, UMMLA; USMMLA
}


def executed_kernels(trace: Path, areas: Sequence[Sequence[int]]) -> Counter[str]:
    """Count the distinct instructions of each group that were executed.

    Args:
        trace: QEMU's list, which it writes with `-d in_asm`.
        areas: start and end of the addresses that count.

    Returns:
        Number of distinct instructions by the names of `ENCODINGS`.
    """
    seen: dict[int, int] = {}
    with trace.open(errors="replace") as file:
        for line in file:
            match = _LINE.match(line)
            if match is not None:
                seen[int(match[1], 16)] = int(match[2], 16)
    inside = (code for address, code in seen.items() if any(start <= address < end for start, end in areas))
    return Counter(group for code in inside for group in [group_of(code)] if group)


def group_of(code: int) -> str | None:
    """Return the group of an instruction by its encoding; None for others."""
    for group, encodings in ENCODINGS.items():
        if any(code & mask == value for mask, value in encodings):
            return group
    return None
