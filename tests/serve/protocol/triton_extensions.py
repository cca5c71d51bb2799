"""A session with tritonclient that uses Triton's extensions: TARGET MODEL IMAGE... -> JSON."""

import json
import queue
import sys
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

target, name, *files = sys.argv[1:]
client = triton.InferenceServerClient(target)
encoded = np.array([Path(file).read_bytes() for file in files], dtype=object)
tensor = triton.InferInput("image", [len(files), 1], "BYTES")
tensor.set_data_from_numpy(encoded.reshape(len(files), 1))
results: dict[str, object] = {}

output = triton.InferRequestedOutput("probabilities", class_count=2)
classified = client.infer(f"{name}.encoded", [tensor], outputs=[output], priority=1, timeout=30_000_000)
results["classes"] = [[text.decode() for text in row] for row in classified.as_numpy("probabilities")]
try:
    client.infer(f"{name}.encoded", [tensor], timeout=1)
except InferenceServerException as error:
    results["late"] = [error.status(), error.message()]

responses: "queue.Queue[list[object]]" = queue.Queue()


def receive(result: "triton.InferResult | None", error: "InferenceServerException | None") -> None:
    """Store a response of the stream."""
    if error is not None:
        responses.put(["error", error.message()])
    else:
        responses.put([result.get_response().id, result.as_numpy("probabilities").tolist()])


client.start_stream(receive)
for number in range(3):
    one = triton.InferInput("image", [1], "BYTES")
    one.set_data_from_numpy(encoded[number : number + 1] if number != 1 else np.array([b"not an image"], dtype=object))
    client.async_stream_infer(f"{name}.encoded", [one], request_id=str(number))
results["stream"] = [responses.get(timeout=30) for _ in range(3)]
client.stop_stream()

results["extensions"] = client.get_server_metadata(as_json=True)["extensions"]
results["statistics"] = client.get_inference_statistics(f"{name}.encoded", as_json=True)["model_stats"]
results["index"] = client.get_model_repository_index(as_json=True)["models"]
client.unload_model(name)
results["after unload"] = [client.is_model_ready(name), client.get_model_repository_index(as_json=True)["models"]]
client.load_model(name)
results["after load"] = [client.is_model_ready(name), client.get_model_repository_index(as_json=True)["models"]]
print(json.dumps(results))  # noqa: T201 - read by the test
