"""The configuration with which NVIDIA Triton serves a model: `config.pbtxt`."""

from unfreeze.contract.model.manifest import INPUT, OUTPUT, Manifest


def config_pbtxt(name: str, manifest: Manifest) -> str:
    """Write a `ModelConfig` in protobuf's text format.

    Args:
        name: the model's name.
        manifest: contains the sizes, the labels and the largest batch size.
    """
    height, width, channels = manifest.preprocess.shape
    dims = f"dims: [{height}, {width}, {channels}]"
    return (
        f'name: "{name}"\n'
        'backend: "onnxruntime"\n'
        f"max_batch_size: {manifest.max_batch}\n"
        f'input [{{ name: "{INPUT}" data_type: TYPE_UINT8 format: FORMAT_NHWC {dims} }}]\n'
        f'output [{{ name: "{OUTPUT}" data_type: TYPE_FP32 dims: [{len(manifest.labels)}] '
        'label_filename: "labels.txt" }]\n'
        "dynamic_batching { }\n"
        "instance_group [{ count: 1 kind: KIND_AUTO }]\n"
        'model_warmup [{ name: "first" batch_size: 1 '
        f'inputs {{ key: "{INPUT}" value {{ data_type: TYPE_UINT8 {dims} zero_data: true }} }} }}]\n'
    )
