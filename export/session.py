"""Run a graph in ONNX Runtime with the settings of a server."""

import numpy as np
import onnxruntime

from unfreeze.contract.arrays import Float32, UInt8
from unfreeze.contract.cores import usable_cores
from unfreeze.contract.errors import ProofError, first_line
from unfreeze.contract.model.manifest import ANSWERS, FEATURES, INPUT, OUTPUT
from unfreeze.contract.model.onnxruntime_options import disabled_optimizers


class Session:
    """A graph loaded in ONNX Runtime.

    Args:
        model: the content of a `model.onnx`.
        precision: "fp32", "fp16" or "int8".

    Raises:
        ProofError: ONNX Runtime cannot load it.
    """

    def __init__(self, model: bytes, precision: str) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = usable_cores()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                model,
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=disabled_optimizers(precision),
            )
        except Exception as error:  # ONNX Runtime's errors have no common base class
            raise ProofError(f"ONNX Runtime cannot load the exported model: {error}; nothing was published") from error
        self._has_answers = ANSWERS in {one.name for one in self._session.get_outputs()}

    def answers(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Float32[np.ndarray, "n a"]:
        """Return probabilities and, if the graph computes it, the out-of-distribution score behind them.

        Raises:
            ProofError: ONNX Runtime failed, for example for lack of memory.
        """
        return self._run(ANSWERS if self._has_answers else OUTPUT, pixels)

    def features(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Float32[np.ndarray, "n f"]:
        """Return the pooled features; the graph has this output.

        Raises:
            ProofError: as `answers`.
        """
        return self._run(FEATURES, pixels)

    def run(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Float32[np.ndarray, "n c"]:
        """Classify prepared images in one batch.

        Raises:
            ProofError: ONNX Runtime failed, for example for lack of memory.
        """
        return self._run(OUTPUT, pixels)

    def _run(self, output: str, pixels: UInt8[np.ndarray, "n h w 3"]) -> Float32[np.ndarray, "n a"]:
        try:
            return np.asarray(self._session.run([output], {INPUT: np.ascontiguousarray(pixels)})[0])
        except Exception as error:  # ONNX Runtime's errors have no common base class
            raise ProofError(f"ONNX Runtime failed on a batch of {len(pixels)}: {first_line(error)}") from error
