"""Triton's examples of system shared memory, with tritonclient: grpc|http TARGET MODEL PREFIX IMAGE... -> JSON.

The calls and their order are those of `simple_grpc_shm_client.py`, `simple_http_shm_client.py` and their versions for
strings, in a process that does not import unfreeze.
"""

import json
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import tritonclient.utils.shared_memory as shm
from tritonclient import utils

kind, target, name, prefix, *files = sys.argv[1:]
triton = import_module(f"tritonclient.{kind}")
client = triton.InferenceServerClient(target)
results: dict[str, object] = {}

# To make sure that no shared memory regions are registered.
client.unregister_system_shared_memory()
client.unregister_cuda_shared_memory()

metadata = client.get_model_metadata(name, as_json=True) if kind == "grpc" else client.get_model_metadata(name)
height, width = (int(size) for size in metadata["inputs"][0]["shape"][1:3])
classes = int(metadata["outputs"][0]["shape"][1])
pixels = np.random.default_rng(0).integers(0, 256, (3, height, width, 3), dtype=np.uint8)
pixels_size, output_size = pixels.size, 3 * classes * 4


def output_of(result: object) -> np.ndarray:
    """Read an output from shared memory, as the examples do."""
    output = result.get_output("probabilities")
    datatype, shape = (output.datatype, output.shape) if kind == "grpc" else (output["datatype"], output["shape"])
    return shm.get_contents_as_numpy(output_handle, utils.triton_to_np_dtype(datatype), shape)


output_handle = shm.create_shared_memory_region("output_data", f"/{prefix}output_simple", output_size)
client.register_system_shared_memory("output_data", f"/{prefix}output_simple", output_size)
input_handle = shm.create_shared_memory_region("input_data", f"/{prefix}input_simple", pixels_size)
shm.set_shared_memory_region(input_handle, [pixels[:1]])
shm.set_shared_memory_region(input_handle, [pixels[1:]], offset=pixels[:1].size)
client.register_system_shared_memory("input_data", f"/{prefix}input_simple", pixels_size)

tensor = triton.InferInput("pixels", list(pixels.shape), "UINT8")
tensor.set_shared_memory("input_data", pixels_size)
output = triton.InferRequestedOutput("probabilities")
output.set_shared_memory("output_data", output_size)
results["pixels"] = output_of(client.infer(name, [tensor], outputs=[output])).tolist()

# The same from the message, and one of the images by its offset.
tensor.set_data_from_numpy(pixels)
results["expected"] = client.infer(name, [tensor]).as_numpy("probabilities").tolist()
tensor = triton.InferInput("pixels", [1, height, width, 3], "UINT8")
tensor.set_shared_memory("input_data", pixels[0].size, offset=pixels[0].size)
results["second"] = client.infer(name, [tensor]).as_numpy("probabilities").tolist()

encoded = np.array([Path(file).read_bytes() for file in files], dtype=object)
serialized = utils.serialize_byte_tensor(encoded)
strings_size = utils.serialized_byte_size(serialized)
strings_handle = shm.create_shared_memory_region("strings_data", f"{prefix}strings_simple", strings_size)
shm.set_shared_memory_region(strings_handle, [serialized])
client.register_system_shared_memory("strings_data", f"{prefix}strings_simple", strings_size)
tensor = triton.InferInput("image", [len(files), 1], "BYTES")
tensor.set_shared_memory("strings_data", strings_size)
output.set_shared_memory("output_data", output_size)
results["encoded"] = output_of(client.infer(f"{name}.encoded", [tensor], outputs=[output])).tolist()

status = client.get_system_shared_memory_status()
regions = status.regions.values() if kind == "grpc" else status
results["status"] = sorted(
    [region.name, region.key, region.offset, region.byte_size]
    if kind == "grpc"
    else [region["name"], region["key"], region["offset"], region["byte_size"]]
    for region in regions
)
one = client.get_system_shared_memory_status("input_data")
results["one"] = list(one.regions) if kind == "grpc" else [region["name"] for region in one]
try:
    client.register_system_shared_memory("input_data", f"/{prefix}input_simple", pixels_size)
except utils.InferenceServerException as error:
    results["again"] = [error.status(), error.message()]
cuda = client.get_cuda_shared_memory_status()
results["cuda"] = list(cuda.regions) if kind == "grpc" else cuda

client.unregister_system_shared_memory("strings_data")
remaining = client.get_system_shared_memory_status()
results["remaining"] = sorted(remaining.regions if kind == "grpc" else [region["name"] for region in remaining])
client.unregister_system_shared_memory()
results["mapped"] = len(shm.mapped_shared_memory_regions())
for handle in (input_handle, output_handle, strings_handle):
    shm.destroy_shared_memory_region(handle)
extensions = client.get_server_metadata(as_json=True) if kind == "grpc" else client.get_server_metadata()
results["extensions"] = extensions["extensions"]
print(json.dumps(results))  # noqa: T201 - read by the test
