"""Array annotations of public signatures, like `UInt8[np.ndarray, "n h w 3"]`: jaxtyping's, where it is installed.

The tests check them with jaxtyping. A device, which has only numpy, Pillow and ONNX Runtime, does not.
"""

try:
    from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt8, UInt16
except ModuleNotFoundError:

    class _Unchecked:
        def __class_getitem__(cls, item: tuple[type, str]) -> type:
            return item[0]

    Bool = Float = Float32 = Float64 = Int64 = UInt8 = UInt16 = _Unchecked  # type: ignore[assignment]

__all__ = ["Bool", "Float", "Float32", "Float64", "Int64", "UInt8", "UInt16"]
