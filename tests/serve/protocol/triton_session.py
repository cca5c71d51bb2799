"""A session with tritonclient, in a process that does not import unfreeze: TARGET MODEL IMAGE... -> JSON."""

import json
import sys
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

target, name, *files = sys.argv[1:]
client = triton.InferenceServerClient(target)
encoded = np.array([Path(file).read_bytes() for file in files], dtype=object)
results: dict[str, object] = {
    "live": client.is_server_live(),
    "ready": client.is_server_ready(),
    "model_ready": client.is_model_ready(name),
    "unknown_ready": client.is_model_ready("unknown"),
    "server": client.get_server_metadata(as_json=True),
}
for model in (name, f"{name}.encoded"):
    results[model] = {
        "metadata": client.get_model_metadata(model, as_json=True),
        "config": client.get_model_config(model, as_json=True)["config"],
    }
shape = [int(size) for size in results[name]["metadata"]["inputs"][0]["shape"][1:]]
pixels = np.random.default_rng(0).integers(0, 256, (3, *shape), dtype=np.uint8)
tensor = triton.InferInput("pixels", list(pixels.shape), "UINT8")
tensor.set_data_from_numpy(pixels)
response = client.infer(name, [tensor], request_id="seven", outputs=[triton.InferRequestedOutput("probabilities")])
results["pixels"] = response.as_numpy("probabilities").tolist()
results["id"] = response.get_response().id
for input_shape in ([len(files)], [len(files), 1]):
    tensor = triton.InferInput("image", input_shape, "BYTES")
    tensor.set_data_from_numpy(encoded.reshape(input_shape))
    results[f"encoded {len(input_shape)}"] = (
        client.infer(f"{name}.encoded", [tensor]).as_numpy("probabilities").tolist()
    )
try:
    client.infer("unknown", [tensor])
except InferenceServerException as error:
    results["error"] = [error.status(), error.message()]
print(json.dumps(results))  # noqa: T201 - read by the test
