"""Generate Python code from the .proto files: `python -m unfreeze.protos.generate`; `--check` only compares."""

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("unfreeze/protos/open_inference.proto", "unfreeze/protos/unfreeze.proto")
_PRIVATE = "open_inference_pb2.py"
_DEFAULT_POOL = "from google.protobuf import descriptor_pool as _descriptor_pool\n"
_PRIVATE_POOL = "from unfreeze.protos import private_pool as _private_pool\n"


def generate(out: Path) -> list[Path]:
    """Generate all code.

    Args:
        out: the folder in which `unfreeze/protos/` is filled.

    Returns:
        The files that were written.
    """
    from grpc_tools import protoc

    arguments = ["protoc", f"-I{ROOT}", f"--python_out={out}", f"--pyi_out={out}", f"--grpc_python_out={out}"]
    if protoc.main([*arguments, *SOURCES]) != 0:
        sys.exit("protoc failed")
    made = out / "unfreeze" / "protos"
    private = made / _PRIVATE
    text = private.read_text()
    if _DEFAULT_POOL not in text or "_descriptor_pool.Default()" not in text:
        sys.exit(f"{_PRIVATE} has another form than expected: the private pool could not be put in")
    text = text.replace(_DEFAULT_POOL, _PRIVATE_POOL).replace("_descriptor_pool.Default()", "_private_pool.POOL")
    private.write_text(text)
    return sorted(made.glob("*_pb2*"))


def main() -> None:
    """Write the code, or compare it with what is there."""
    with tempfile.TemporaryDirectory() as folder:
        for made in generate(Path(folder)):
            present = ROOT / "protos" / made.name
            if "--check" not in sys.argv:
                present.write_bytes(made.read_bytes())
            elif not present.is_file() or present.read_bytes() != made.read_bytes():
                sys.exit(
                    f"{present.relative_to(ROOT)} is not what its .proto gives: run python -m unfreeze.protos.generate"
                )


if __name__ == "__main__":
    main()
