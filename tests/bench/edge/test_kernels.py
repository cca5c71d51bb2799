"""Instructions are counted by their encodings, where they belong to the runtime."""

from pathlib import Path

import pytest

from bench.edge.kernels import executed_kernels, group_of

# What GNU as 2.40 makes of the instruction for armv8.6-a+i8mm+bf16+fp16.
ASSEMBLED = {
    "fmla v0.4s, v1.4s, v2.4s": (0x4E22CC20, "fp32"),
    "fmla v0.4s, v1.4s, v2.s[1]": (0x4FA21020, "fp32"),
    "fmul v3.4s, v1.4s, v2.4s": (0x6E22DC23, "fp32"),
    "fmla v0.8h, v1.8h, v2.8h": (0x4E420C20, "fp16"),
    "fmla v0.8h, v1.8h, v2.h[3]": (0x4F321020, "fp16"),
    "fmul v0.8h, v1.8h, v2.8h": (0x6E421C20, "fp16"),
    "bfmmla v0.4s, v1.8h, v2.8h": (0x6E42EC20, "bf16"),
    "smlal v0.4s, v1.4h, v2.4h": (0x0E628020, "widening"),
    "umlal2 v0.8h, v1.16b, v2.16b": (0x6E228020, "widening"),
    "smlal v0.4s, v1.4h, v2.h[1]": (0x0F522020, "widening"),
    "smull v0.8h, v1.8b, v2.8b": (0x0E22C020, "widening"),
    "umull2 v0.8h, v1.16b, v2.16b": (0x6E22C020, "widening"),
    "smull v0.4s, v1.4h, v2.h[3]": (0x0F72A020, "widening"),
    "sdot v0.4s, v1.16b, v2.16b": (0x4E829420, "dot product"),
    "sdot v0.2s, v1.8b, v2.8b": (0x0E829420, "dot product"),
    "udot v16.4s, v1.16b, v2.4b[2]": (0x6F82E830, "dot product"),
    "usdot v0.4s, v1.16b, v2.16b": (0x4E829C20, "dot product"),
    "smmla v0.4s, v1.16b, v2.16b": (0x4E82A420, "i8mm"),
    "ummla v0.4s, v1.16b, v2.16b": (0x6E82A420, "i8mm"),
    "usmmla v0.4s, v1.16b, v2.16b": (0x4E82AC20, "i8mm"),
    "add v0.4s, v1.4s, v2.4s": (0x4EA28420, None),
    "fmul d0, d0, d2": (0x1E620800, None),
    "umull x6, w2, w4": (0x9BA47C46, None),
    "pmull v0.8h, v1.8b, v2.8b": (0x0E22E020, None),
    "fmla v0.2d, v1.2d, v2.2d": (0x4E62CC20, None),
    "mla v0.4s, v1.4s, v2.4s": (0x4EA29420, None),
}


@pytest.mark.parametrize("instruction", ASSEMBLED)
def test_instructions_are_told_apart_by_their_encodings(instruction: str) -> None:
    """Vectors and elements, both widths of registers; scalars and other multiplications do not count."""
    code, group = ASSEMBLED[instruction]
    assert group_of(code) == group


def test_translated_code_counts_once_and_inside_the_runtime(tmp_path: Path) -> None:
    """Code that QEMU has translated twice, and code of other libraries, does not change the numbers."""
    trace = tmp_path / "trace.log"
    block = "----------------\nIN: \n0x5500001000:  4e829420  .byte    0x20, 0x94\n0x5500001004:  4e22cc20  fmla\n\n"
    trace.write_text(block + block + "IN: \n0x5500009000:  4e829420  .byte    0x20\n")
    assert executed_kernels(trace, [[0x5500001000, 0x5500002000]]) == {"dot product": 1, "fp32": 1}
    assert executed_kernels(trace, [[0x5500009000, 0x5500009001]]) == {"dot product": 1}
