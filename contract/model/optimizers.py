"""What ONNX Runtime needs to be told wherever one of our graphs runs."""


def disabled_optimizers(precision: str) -> list[str]:
    """Name the steps of ONNX Runtime that a precision has to do without.

    On a CPU, its layout for convolutions ends the whole process on vision transformers in float16 (ONNX Runtime 1.31).

    Args:
        precision: of the graph's arithmetic, as the manifest has it.
    """
    return ["NchwcTransformer"] if precision == "fp16" else []
