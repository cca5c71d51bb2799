"""The command `unfreeze traffic`."""

import dataclasses
from json import JSONDecodeError, loads
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from cyclopts import Parameter
from rich.table import Table

from unfreeze.commands.connection import ConnectionOptions
from unfreeze.console import RESULTS, print_json
from unfreeze.contract.errors import ManifestError, OptionsError
from unfreeze.contract.traffic import TrafficSettings, parse_shares, traffic_from

if TYPE_CHECKING:
    from unfreeze.protos import unfreeze_pb2 as pb

_Shares: TypeAlias = dict[str, float] | None
_Given: TypeAlias = tuple[_Shares, _Shares, str | None]  # split, shadow and rule; None where it stays as it is

EXAMPLES = """Examples:

    unfreeze traffic localhost:8001 flowers
    unfreeze traffic localhost:8001 flowers --split 3:95,4:5 --shadow 4:10
    unfreeze traffic localhost:8001 flowers --rule '{"max_error_rate": 0.01, "max_disagreement": 0.1, "action": "both"}'
    unfreeze traffic localhost:8001 flowers --split 4:100 --shadow "" --rule ""
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PatientConnectionOptions(ConnectionOptions):
    """Connection to a server that may have to load versions.

    Args:
        timeout_s: timeout in seconds; versions may have to be loaded.
    """

    timeout_s: float = 120.0


_DEFAULTS = PatientConnectionOptions()


def traffic(
    address: str,
    model: str = "",
    *,
    split: str | None = None,
    shadow: str | None = None,
    rule: str | None = None,
    options: Annotated[PatientConnectionOptions, Parameter(name="*")] = _DEFAULTS,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Show or set how a server divides the requests of a model among its versions.

    What is not given stays as it is. An empty value removes it: without a split, the newest version gets all requests.

    Args:
        address: HOST:PORT of a server, or unix:///PATH of its Unix socket.
        model: name of the model; optional if the server has only one.
        split: weights of versions, such as 3:95,4:5; the oldest is the stable one.
        shadow: version that classifies copies of the stable version's requests, and their share in percent, such as
            4:10.
        rule: JSON of when a version is promoted or taken back; the page about traffic has its fields.
        options: connection to the server.
        json: print JSON to standard output instead of a table.
    """
    from google.protobuf.json_format import MessageToDict

    given = (
        None if split is None else parse_shares(split, "--split"),
        None if shadow is None else parse_shares(shadow, "--shadow"),
        rule,
    )
    found = _exchange(address, model, given, options)
    document = MessageToDict(found, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    if json:
        print_json(document)
        return
    RESULTS.print(_requests_table(document))
    if (shadows := _shadow_table(document)) is not None:
        RESULTS.print(shadows)
    for line in _remarks(document):
        RESULTS.print(line, markup=False)


def _exchange(address: str, model: str, given: _Given, options: ConnectionOptions) -> "pb.Traffic":
    """Set what was given, and get what is in force."""
    import grpc

    from unfreeze.protos import unfreeze_pb2 as pb
    from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub
    from unfreeze.serve.client.channel import ClientOptions
    from unfreeze.serve.client.messages import to_serving_error

    client = ClientOptions(target=address, **options.client_options())
    arguments = client.call_arguments(wait_for_ready=False)
    with client.open_channel(grpc) as channel:
        stub = ClassifierStub(channel)
        try:
            found: pb.Traffic = stub.GetTraffic(pb.GetTrafficRequest(model=model), **arguments)
            if any(one is not None for one in given):
                found = stub.SetTraffic(_request(found, *given), **arguments)
        except grpc.RpcError as error:
            raise to_serving_error(error, client) from error
    return found


def _request(found: "pb.Traffic", split: _Shares, shadow: _Shares, rule: str | None) -> "pb.SetTrafficRequest":
    from unfreeze.protos import unfreeze_pb2 as pb

    settings = _settings(
        dict(found.split) if split is None else split, dict(found.shadow) if shadow is None else shadow, rule
    )
    request = pb.SetTrafficRequest(model=found.model, split=settings.split, shadow=settings.shadow)
    if rule is None and found.HasField("rule"):
        request.rule.CopyFrom(found.rule)
    elif settings.rule is not None:
        limits = {name: value for name, value in vars(settings.rule).items() if value is not None}
        request.rule.CopyFrom(pb.TrafficRule(**limits))
    return request


def _settings(split: dict[str, float], shadow: dict[str, float], rule: str | None) -> TrafficSettings:
    document: dict[str, Any] = {"split": split, "shadow": shadow}
    try:
        if rule:
            document["rule"] = loads(rule)
        return traffic_from(document)
    except (JSONDecodeError, ManifestError) as error:
        raise OptionsError(str(error).removesuffix(" @ $")) from None


def _requests_table(document: dict[str, Any]) -> Table:
    title = f"{document['model']}, stable version {document['stable']}"
    table = Table("version", "share", "requests", "errors", "images", "p99 ms", title=title)
    for one in document["versions"]:
        name = one["version"] if one["loaded"] else f"{one['version']} (not loaded)"
        counts = [f"{int(one[key]):,}" for key in ("requests", "errors", "images")]
        p99 = f"{one['p99_ms']:.1f}" if "p99_ms" in one else ""
        table.add_row(name, f"{one['share']:.1%}", *counts, p99)
    return table


def _shadow_table(document: dict[str, Any]) -> Table | None:
    columns = "same", "different", "failed", "dropped"
    table = Table("shadow", "copies", *columns, "mean difference", title="images of copies, by their top label")
    for one in document["versions"]:
        copied = one["shadow"]
        counts = [int(copied[key]) for key in columns]
        if copied["share"] or any(counts):
            difference = f"{copied['mean_difference']:.4f}" if "mean_difference" in copied else ""
            table.add_row(one["version"], f"{copied['share']:.1%}", *(f"{count:,}" for count in counts), difference)
    return table if table.row_count else None


def _remarks(document: dict[str, Any]) -> list[str]:
    remarks = []
    if document["seconds"]:
        stored = "kept by a restart" if document["stored"] else "forgotten by a restart"
        remarks.append(f"set {document['seconds']:,.0f} s ago, {stored}")
    if "rule" in document:
        remarks.append("rule: " + ", ".join(f"{name} {value}" for name, value in document["rule"].items()))
    if "decision" in document:
        remarks.append("{time}: version {version} was {action}: {reason}".format(**document["decision"]))
    return remarks
