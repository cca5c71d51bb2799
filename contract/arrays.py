"""The array annotations of public signatures: `UInt8[np.ndarray, "n h w 3"]` reads as jaxtyping's.

jaxtyping checks them in the tests. A device, which has numpy, Pillow and ONNX Runtime alone, does without.
"""

try:
    from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt8, UInt16
except ModuleNotFoundError:

    class _Unchecked:
        def __class_getitem__(cls, item: tuple[type, str]) -> type:
            return item[0]

    Bool = Float = Float32 = Float64 = Int64 = UInt8 = UInt16 = _Unchecked  # type: ignore[assignment]

__all__ = ["Bool", "Float", "Float32", "Float64", "Int64", "UInt8", "UInt16"]
