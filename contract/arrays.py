"""The array annotations of public signatures: `UInt8[np.ndarray, "n h w 3"]` reads as jaxtyping's.

jaxtyping checks them in the tests. A device, which has numpy, Pillow and ONNX Runtime alone, does without.
"""

try:
    from jaxtyping import Float32, UInt8
except ModuleNotFoundError:

    class _Unchecked:
        def __class_getitem__(cls, item: tuple[type, str]) -> type:
            return item[0]

    Float32 = UInt8 = _Unchecked  # type: ignore[assignment]

__all__ = ["Float32", "UInt8"]
