"""ONNX Runtime's options that exported graphs need wherever they run."""


def disabled_optimizers(precision: str) -> list[str]:
    """List the graph optimizers of ONNX Runtime that must be disabled.

    On a CPU, the NCHWc layout optimizer crashes the process on vision transformers in float16 (ONNX Runtime 1.31).

    Args:
        precision: the manifest's: "fp32", "fp16" or "int8".
    """
    return ["NchwcTransformer"] if precision == "fp16" else []
