"""Arm processors that QEMU emulates, by what matters to int8: the instructions that they have."""

from dataclasses import dataclass

_BASE = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
_HALF = f"{_BASE} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"


@dataclass(frozen=True, kw_only=True)
class Processor:
    """A processor.

    Args:
        name: as QEMU writes it.
        examples: devices that have it or one with the same instructions.
        part: its number in /proc/cpuinfo, which ONNX Runtime chooses kernels by.
        features: its features there.
    """

    name: str
    examples: str
    part: int
    features: str

    def cpuinfo(self, cores: int) -> str:
        """Write /proc/cpuinfo."""
        return "".join(
            f"processor\t: {number}\nBogoMIPS\t: 100.00\nFeatures\t: {self.features}\nCPU implementer\t: 0x41\n"
            f"CPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: 0x{self.part:x}\nCPU revision\t: 0\n\n"
            for number in range(cores)
        )


PROCESSORS = (
    Processor(name="cortex-a72", examples="Raspberry Pi 4, Graviton 1", part=0xD08, features=_BASE),
    Processor(name="cortex-a76", examples="Raspberry Pi 5, RK3588", part=0xD0B, features=_HALF),
    Processor(
        name="max", examples="Armv8.6 and later: Graviton 3, Cortex-A510", part=0xD40, features=f"{_HALF} i8mm bf16"
    ),
)
