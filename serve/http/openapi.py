"""The OpenAPI document of the HTTP server."""

from typing import Any

_TEXT: dict[str, Any] = {"type": "string"}
_NUMBER: dict[str, Any] = {"type": "number"}
_INTEGER: dict[str, Any] = {"type": "integer"}
_BOOLEAN: dict[str, Any] = {"type": "boolean"}
_ANYTHING: dict[str, Any] = {"type": "object"}
_BYTES: dict[str, Any] = {"type": "string", "format": "binary"}


def openapi_document(version: str) -> dict[str, Any]:
    """Describe all calls, as OpenAPI 3.1.

    Args:
        version: of the server.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "unfreeze",
            "version": version,
            "description": "Classify images: as files, or with the Open Inference Protocol, version 2.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"token": []}],
        "paths": _paths(),
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Classification": _classification(), "InferRequest": _tensors("inputs")},
            "responses": {
                "Error": {
                    "description": "The request is refused; Retry-After says when a retry may succeed.",
                    "content": _json(_object(error=_TEXT)),
                }
            },
        },
    }


def _paths() -> dict[str, Any]:
    paths: dict[str, Any] = {
        "/v2/health/live": _get("live", "Whether the server runs", _object(live=_BOOLEAN)),
        "/v2/health/ready": _get("ready", "Whether the server accepts requests", _object(ready=_BOOLEAN)),
        "/v2": _get("serverMetadata", "Name, version and extensions of the server", _ANYTHING),
        "/v2/models/stats": _get("allStatistics", "Statistics of all models", _ANYTHING),
        "/v1/models": _get("models", "All models and their state", _ANYTHING),
        "/v2/repository/index": _post(
            "index", "All models and their state", _json(_object(ready=_BOOLEAN)), {"type": "array"}
        ),
    }
    for verb in ("load", "unload"):
        path = f"/v2/repository/models/{{name}}/{verb}"
        paths[path] = _post(verb, f"{verb.capitalize()} a model (with --admin)", _json(_ANYTHING), None, "name")
    paths |= _shared_memory("system", "System") | _shared_memory("cuda", "Cuda")
    for end, names, suffix in (("", ("name",), ""), ("/versions/{version}", ("name", "version"), "Version")):
        model, described = f"/v2/models/{{name}}{end}", f"/v1/models/{{name}}{end}"
        paths |= {
            model: _get(f"metadata{suffix}", "Inputs and outputs of a model", _ANYTHING, *names),
            f"{model}/ready": _get(f"modelReady{suffix}", "Whether a model is ready", _ANYTHING, *names),
            f"{model}/config": _get(f"config{suffix}", "Configuration of a model", _ANYTHING, *names),
            f"{model}/stats": _get(f"statistics{suffix}", "Statistics of a model", _ANYTHING, *names),
            described: _get(f"describe{suffix}", "Labels, input and accuracy of a model", _ANYTHING, *names),
            f"{model}/infer": _post(
                f"infer{suffix}",
                "Classify images given as tensors; binary tensor data may follow the JSON",
                _json({"$ref": "#/components/schemas/InferRequest"}) | {"application/octet-stream": {"schema": _BYTES}},
                _tensors("outputs"),
                *names,
            ),
            f"{described}:classify": _classify(f"classify{suffix}", names),
        }
    return paths


def _shared_memory(kind: str, prefix: str) -> dict[str, Any]:
    root, region = f"/v2/{kind}sharedmemory", _object(key=_TEXT, offset=_INTEGER, byte_size=_INTEGER)
    listed: dict[str, Any] = {"type": "array", "items": _ANYTHING}
    paths = {
        f"{root}/region/{{name}}/register": _post(
            f"register{prefix}", "Register a region of a shared memory object", _json(region), None, "name"
        )
    }
    for middle, names, suffix in (("", (), "All"), ("/region/{name}", ("name",), "")):
        paths |= {
            f"{root}{middle}/status": _get(f"regions{prefix}{suffix}", "Registered regions", listed, *names),
            f"{root}{middle}/unregister": _post(
                f"unregister{prefix}{suffix}", "Forget regions", _json(_ANYTHING), None, *names
            ),
        }
    return paths


def _classify(identifier: str, names: tuple[str, ...]) -> dict[str, Any]:
    form = {"type": "object", "properties": {"image": {"type": "array", "items": _BYTES}}}
    content = {
        "application/octet-stream": {"schema": _BYTES},
        "image/*": {"schema": _BYTES},
        "multipart/form-data": {"schema": form},
    }
    answer = {"$ref": "#/components/schemas/Classification"}
    path = _post(identifier, "Classify an image file, or the files of a form", content, answer, *names)
    path["post"]["parameters"] += [
        _parameter("top_k", "query", _INTEGER, "Number of labels, 5 by default."),
        _parameter("timeout_ms", "query", _INTEGER, "Milliseconds after which the answer is not needed any more."),
    ]
    return path


def _classification() -> dict[str, Any]:
    label = _object(label=_TEXT, score=_NUMBER, index=_INTEGER)
    flag = {"type": ["boolean", "null"]}
    prediction = _object(
        file=_TEXT,
        labels={"type": "array", "items": label},
        unsure=flag,
        out_of_distribution=flag,
        ood_score={"type": ["number", "null"]},
    )
    many = {"type": "array", "items": prediction}
    return _object(model=_TEXT, version=_TEXT, milliseconds=_NUMBER, predictions=many)


def _tensors(name: str) -> dict[str, Any]:
    shape = {"type": "array", "items": _INTEGER}
    tensor = _object(name=_TEXT, datatype=_TEXT, shape=shape, data={"type": "array"}, parameters=_ANYTHING)
    return _object(id=_TEXT, parameters=_ANYTHING, **{name: {"type": "array", "items": tensor}})


def _get(identifier: str, summary: str, schema: dict[str, Any], *names: str) -> dict[str, Any]:
    return {"get": _operation(identifier, summary, schema, names)}


def _post(
    identifier: str, summary: str, content: dict[str, Any], schema: dict[str, Any] | None, *names: str
) -> dict[str, Any]:
    return {"post": _operation(identifier, summary, schema, names) | {"requestBody": {"content": content}}}


def _operation(identifier: str, summary: str, schema: dict[str, Any] | None, names: tuple[str, ...]) -> dict[str, Any]:
    done = {"description": "Done."} | ({} if schema is None else {"content": _json(schema)})
    return {
        "operationId": identifier,
        "summary": summary,
        "parameters": [_parameter(name, "path", _TEXT, f"The model's {name}.") for name in names],
        "responses": {"200": done, "default": {"$ref": "#/components/responses/Error"}},
    }


def _parameter(name: str, place: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": schema, "description": description}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
