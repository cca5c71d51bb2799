"""Generate Python code from the .proto files: `python -m unfreeze.protos.generate`; with `--check`, only compare."""

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("unfreeze/protos/open_inference.proto", "unfreeze/protos/unfreeze.proto")
_PRIVATE_POOL_MODULE = "open_inference_pb2.py"
_DEFAULT_POOL_IMPORT = "from google.protobuf import descriptor_pool as _descriptor_pool\n"
_PRIVATE_POOL_IMPORT = "from unfreeze.protos import private_pool as _private_pool\n"


def generate(out: Path) -> list[Path]:
    """Generate the code of all .proto files.

    Args:
        out: output folder; the files are written to its subfolder `unfreeze/protos/`.

    Returns:
        The generated files.

    Raises:
        SystemExit: protoc failed, or its output has changed so that the private pool cannot be inserted.
    """
    from grpc_tools import protoc

    arguments = ["protoc", f"-I{ROOT}", f"--python_out={out}", f"--pyi_out={out}", f"--grpc_python_out={out}"]
    if protoc.main([*arguments, *SOURCES]) != 0:
        sys.exit("protoc failed")
    folder = out / "unfreeze" / "protos"
    _use_private_pool(folder / _PRIVATE_POOL_MODULE)
    return sorted(folder.glob("*_pb2*"))


def _use_private_pool(path: Path) -> None:
    code = path.read_text()
    if _DEFAULT_POOL_IMPORT not in code or "_descriptor_pool.Default()" not in code:
        sys.exit(f"cannot insert the private descriptor pool into {path.name}: protoc's output has changed")
    code = code.replace(_DEFAULT_POOL_IMPORT, _PRIVATE_POOL_IMPORT)
    path.write_text(code.replace("_descriptor_pool.Default()", "_private_pool.POOL"))


def main() -> None:
    """Write the generated code, or compare it with the existing files."""
    with tempfile.TemporaryDirectory() as folder:
        for generated in generate(Path(folder)):
            existing = ROOT / "protos" / generated.name
            if "--check" not in sys.argv:
                existing.write_bytes(generated.read_bytes())
            elif not existing.is_file() or existing.read_bytes() != generated.read_bytes():
                sys.exit(f"{existing.relative_to(ROOT)} is out of date: run python -m unfreeze.protos.generate")


if __name__ == "__main__":
    main()
