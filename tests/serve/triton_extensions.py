"""What a user of tritonclient does with Triton's extensions: TARGET MODEL IMAGE... -> JSON."""

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
answers: dict[str, object] = {}

asked = triton.InferRequestedOutput("probabilities", class_count=2)
named = client.infer(f"{name}.encoded", [tensor], outputs=[asked], priority=1, timeout=30_000_000)
answers["classes"] = [[text.decode() for text in row] for row in named.as_numpy("probabilities")]
try:
    client.infer(f"{name}.encoded", [tensor], timeout=1)
except InferenceServerException as error:
    answers["late"] = [error.status(), error.message()]

heard: "queue.Queue[list[object]]" = queue.Queue()


def hear(result: "triton.InferResult | None", error: "InferenceServerException | None") -> None:
    """Keep what the stream says."""
    if error is not None:
        heard.put(["error", error.message()])
    else:
        heard.put([result.get_response().id, result.as_numpy("probabilities").tolist()])


client.start_stream(hear)
for number in range(3):
    one = triton.InferInput("image", [1], "BYTES")
    one.set_data_from_numpy(encoded[number : number + 1] if number != 1 else np.array([b"no image"], dtype=object))
    client.async_stream_infer(f"{name}.encoded", [one], request_id=str(number))
answers["stream"] = [heard.get(timeout=30) for _ in range(3)]
client.stop_stream()

answers["extensions"] = client.get_server_metadata(as_json=True)["extensions"]
answers["statistics"] = client.get_inference_statistics(f"{name}.encoded", as_json=True)["model_stats"]
answers["index"] = client.get_model_repository_index(as_json=True)["models"]
client.unload_model(name)
answers["after unload"] = [client.is_model_ready(name), client.get_model_repository_index(as_json=True)["models"]]
client.load_model(name)
answers["after load"] = [client.is_model_ready(name), client.get_model_repository_index(as_json=True)["models"]]
print(json.dumps(answers))  # noqa: T201 - this is how the test hears of them
