"""Classify images without unfreeze or its .proto files: python classify_by_reflection.py HOST:PORT MODEL IMAGE...

The message types come from the server's reflection service, as for grpcurl. Needs grpcio-reflection.
"""

import sys
from pathlib import Path

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

target, model, *files = sys.argv[1:]
with grpc.insecure_channel(target) as channel:
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    method = pool.FindServiceByName("unfreeze.v1.Classifier").FindMethodByName("Predict")
    request_class, response_class = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    predict = channel.unary_unary(
        "/unfreeze.v1.Classifier/Predict",
        request_serializer=request_class.SerializeToString,
        response_deserializer=response_class.FromString,
    )
    images = [Path(file).read_bytes() for file in files]
    try:
        response = predict(request_class(model=model, images=images, top_k=2), timeout=30)
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
for file, prediction in zip(files, response.predictions, strict=True):
    for one in prediction.labels:
        print(f"{file}\t{one.label}\t{one.score:.4f}")  # noqa: T201 - a program's output
