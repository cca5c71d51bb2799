"""GetTraffic and SetTraffic of `unfreeze.v1.Classifier`."""

from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict

from unfreeze.contract.errors import InvalidRequestError, ManifestError
from unfreeze.contract.traffic import TrafficSettings, traffic_from
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.serve.models.served import ServedModels


async def get_traffic(models: ServedModels, name: str) -> pb.Traffic:
    """Return how the requests of a model are divided.

    Raises:
        UnknownModelError: the model is not loaded.
    """
    return ParseDict(await models.traffic(name), pb.Traffic(), ignore_unknown_fields=True)


async def set_traffic(models: ServedModels, name: str, request: pb.SetTrafficRequest) -> pb.Traffic:
    """Divide the requests of a model among its versions.

    Raises:
        InvalidRequestError: the shares or the rule are not valid.
        UnknownModelError: the model is not loaded, or the repository has no such version.
        ModelUnavailableError: a version cannot be loaded.
    """
    await models.set_traffic(name, _settings(request))
    return await get_traffic(models, name)


def _settings(request: pb.SetTrafficRequest) -> TrafficSettings:
    document: dict[str, Any] = {"split": dict(request.split), "shadow": dict(request.shadow)}
    if request.HasField("rule"):
        document["rule"] = MessageToDict(request.rule, preserving_proto_field_name=True)
    try:
        return traffic_from(document)
    except ManifestError as error:
        raise InvalidRequestError(str(error).removesuffix(" @ $")) from None
