"""The handlers of the HTTP server. They use what the gRPC services use: the same admission, queue and batches."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import Message
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from unfreeze.contract.answers import read_answer
from unfreeze.contract.arrays import Float32
from unfreeze.contract.errors import DrainingError, InvalidRequestError
from unfreeze.contract.model.manifest import Manifest
from unfreeze.protos import open_inference_pb2 as pb
from unfreeze.protos import unfreeze_pb2
from unfreeze.serve.http.bodies import Body, BodyLimits, read_document
from unfreeze.serve.http.errors import CLIENT_CLOSED, RefusedError, error_response
from unfreeze.serve.http.forms import MULTIPART, form_files
from unfreeze.serve.http.json_messages import LENGTH_HEADER, parse_request, render_response, to_json
from unfreeze.serve.http.numbers import parse_number
from unfreeze.serve.http.shared_memory import SharedMemoryHandlers
from unfreeze.serve.models.served import ServedModels
from unfreeze.serve.protocol.classifier import ClassifierService
from unfreeze.serve.protocol.model_infer import infer
from unfreeze.serve.protocol.open_inference import InferenceService
from unfreeze.serve.protocol.request_ids import request_id
from unfreeze.serve.protocol.shared_memory import SharedMemoryRegions
from unfreeze.serve.recording.recorder import Record, Recorder

Handler = Callable[[Request], Awaitable[Response]]
_DEFAULT_TOP_K = 5
_LARGE_BYTES = 2**16  # parsed or rendered in a thread, so that the event loop is not blocked
_MANY_LABELS = 1000
_MOST_DIGITS = 9
_Result = TypeVar("_Result")


def handled(handler: Handler) -> Handler:
    """Turn the errors of a handler into responses."""

    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except ClientDisconnect:
            return Response(status_code=CLIENT_CLOSED)
        except Exception as error:  # noqa: BLE001 - no exception may reach the caller as a traceback
            return error_response(error)

    return handle


class Handlers:
    """The handlers of a server.

    Args:
        models: the served models.
        regions: of shared memory.
        admin: whether clients may load and unload models.
        limits: of the bodies of requests.
        grpc_port: returns the port of the gRPC server, for the page.
        tls: whether the server uses TLS.
        recorder: keeps images; None keeps none.

    Attributes:
        shared_memory: the handlers of shared memory.
    """

    def __init__(
        self,
        models: ServedModels,
        regions: SharedMemoryRegions,
        *,
        admin: bool,
        limits: BodyLimits,
        grpc_port: Callable[[], int],
        tls: bool,
        recorder: Recorder | None = None,
    ) -> None:
        self._recorder = recorder
        self._models, self._regions, self._limits, self._grpc_port, self._tls = models, regions, limits, grpc_port, tls
        self._inference = InferenceService(models, regions, admin=admin)
        self.shared_memory = SharedMemoryHandlers(self._inference, limits)
        self._classifier = ClassifierService(models)
        self.draining = False

    async def live(self, _: Request) -> Response:
        """Answer that the server runs."""
        return JSONResponse({"live": True})

    async def ready(self, _: Request) -> Response:
        """Answer whether the server accepts requests."""
        is_ready = bool(self._models.names) and not self.draining
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    async def model_ready(self, request: Request) -> Response:
        """Answer whether a model is ready."""
        name, version = _model(request)
        message = await self._inference.ModelReady(pb.ModelReadyRequest(name=name, version=version), None)
        return JSONResponse({"name": name, "ready": message.ready}, 200 if message.ready else 404)

    async def server_metadata(self, _: Request) -> Response:
        """Describe the server."""
        return _json(await self._inference.ServerMetadata(pb.ServerMetadataRequest(), None))

    async def model_metadata(self, request: Request) -> Response:
        """Describe a model's inputs and outputs."""
        name, version = _model(request)
        return _json(await self._inference.ModelMetadata(pb.ModelMetadataRequest(name=name, version=version), None))

    async def model_config(self, request: Request) -> Response:
        """Return a model's configuration, as Triton does."""
        name, version = _model(request)
        message = await self._inference.ModelConfig(pb.ModelConfigRequest(name=name, version=version), None)
        return _json(message.config)

    async def model_statistics(self, request: Request) -> Response:
        """Return statistics of one model or of all."""
        name, version = _model(request)
        return _json(await self._inference.ModelStatistics(pb.ModelStatisticsRequest(name=name, version=version), None))

    async def infer(self, request: Request) -> Response:
        """Classify images, as the Open Inference Protocol has it."""
        await self._admit(None)
        started = time.monotonic()

        def deadline(timeout_us: int) -> float | None:
            return started + timeout_us / 1e6 if timeout_us else None

        with Body(request, self._limits) as receiving:
            body = await receiving.read()
            arguments = *_model(request), body, request.headers.get(LENGTH_HEADER)
            message = await _in_thread_if(len(body) > _LARGE_BYTES, partial(parse_request, *arguments))
            work = infer(self._models, message, deadline, self._regions, self._recording(request))
            answer = await _unless_disconnected(request, work)
        size = sum(map(len, answer.raw_output_contents))
        content, json_length = await _in_thread_if(size > _LARGE_BYTES, partial(render_response, message, answer))
        if json_length is None:
            return Response(content, media_type="application/json")
        return Response(content, headers={LENGTH_HEADER: str(json_length)}, media_type="application/octet-stream")

    async def repository_index(self, request: Request) -> Response:
        """List the versions of all models."""
        options = await read_document(request, self._limits)
        message = await self._inference.RepositoryIndex(
            pb.RepositoryIndexRequest(ready=options.get("ready") is True), None
        )
        return JSONResponse([to_json(model) for model in message.models])

    async def load(self, request: Request) -> Response:
        """Load the newest version of a model."""
        parameters = _admin_parameters(await read_document(request, self._limits))
        name, _ = _model(request)
        await self._inference.RepositoryModelLoad(
            pb.RepositoryModelLoadRequest(model_name=name, parameters=parameters), None
        )
        return Response()

    async def unload(self, request: Request) -> Response:
        """Unload a model."""
        parameters = _admin_parameters(await read_document(request, self._limits))
        name, _ = _model(request)
        await self._inference.RepositoryModelUnload(
            pb.RepositoryModelUnloadRequest(model_name=name, parameters=parameters), None
        )
        return Response()

    async def models(self, _: Request) -> Response:
        """List the models, and say where gRPC listens."""
        message = await self._classifier.ListModels(unfreeze_pb2.ListModelsRequest(), None)
        return JSONResponse({"grpc_port": self._grpc_port(), "tls": self._tls, **to_json(message)})

    async def describe(self, request: Request) -> Response:
        """Describe a model: its labels, its input, how good it is."""
        name, version = _model(request)
        message = await self._classifier.DescribeModel(
            unfreeze_pb2.DescribeModelRequest(model=name, version=version), None
        )
        return JSONResponse(to_json(message) | {"metrics": dict(message.metrics)})

    async def classify(self, request: Request) -> Response:
        """Classify image files: the body, or the files of a form."""
        started = time.monotonic()
        timeout_ms, top_k = _number(request, "timeout_ms"), _number(request, "top_k") or _DEFAULT_TOP_K
        deadline = started + timeout_ms / 1000 if timeout_ms else None
        await self._admit(deadline)
        name, version = _model(request)
        with Body(request, self._limits) as receiving, self._models.use(name, version) as model:
            body, content_type = await receiving.read(), request.headers.get("content-type", "")
            files = [("", body)]
            if content_type.lower().startswith(MULTIPART):
                files = await _in_thread_if(len(body) > _LARGE_BYTES, partial(form_files, content_type, body))
            images = [content for _, content in files]
            rows = await _unless_disconnected(request, model.classify(images, deadline))
            if (record := self._recording(request)) is not None:
                record(model, images, rows)
            shown = min(top_k, len(model.manifest.labels))
            names = [file for file, _ in files]
            render = partial(_predictions, names, rows, model.manifest, shown)
            predictions = await _in_thread_if(len(files) * shown > _MANY_LABELS, render)
            milliseconds = round(1000 * (time.monotonic() - started), 2)
            about = {"model": model.name, "version": model.version, "milliseconds": milliseconds}
        start = json.dumps(about).encode().removesuffix(b"}")
        return Response(start + b', "predictions": ' + predictions + b"}", media_type="application/json")

    def _recording(self, request: Request) -> Record | None:
        """Return what receives the answer; None if the images of the request may not be stored."""
        return None if self._recorder is None else self._recorder.recording(request.headers.items(), request_id.get)

    async def _admit(self, deadline: float | None) -> None:
        """Refuse a request before its body is read where it cannot be answered anyway, as over gRPC."""
        if self.draining:
            raise DrainingError("the server is shutting down; retry on another server")
        if self._models.are_busy():
            await asyncio.sleep(0)
            self._models.check_capacity(deadline)


def _predictions(names: Sequence[str], rows: Float32[np.ndarray, "n a"], manifest: Manifest, top_k: int) -> bytes:
    """Render the predictions of files as JSON."""
    predictions = []
    for name, row in zip(names, rows, strict=True):
        answer = read_answer(row, manifest, top_k)
        labels = [{"label": one.label, "score": one.score, "index": one.index} for one in answer.predictions]
        found: dict[str, Any] = {"file": name, "labels": labels, "unsure": answer.unsure}
        found |= {"out_of_distribution": answer.out_of_distribution, "ood_score": answer.ood_score}
        predictions.append(found)
    return json.dumps(predictions).encode()


async def _in_thread_if(is_large: bool, work: Callable[[], _Result]) -> _Result:  # noqa: FBT001
    """Do large work in a thread, so that the event loop is not blocked."""
    return await asyncio.to_thread(work) if is_large else work()


def _model(request: Request) -> tuple[str, str]:
    return request.path_params.get("name", ""), request.path_params.get("version", "")


def _json(message: Message) -> Response:
    return JSONResponse(to_json(message))


def _admin_parameters(document: dict[str, Any]) -> dict[str, pb.ModelRepositoryParameter]:
    """Return the names of the parameters; which ones are supported does not depend on their values."""
    parameters = document.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidRequestError("'parameters' must be an object in JSON")
    names = (name.encode("utf-8", "replace").decode() for name in parameters)
    return {name: pb.ModelRepositoryParameter(bool_param=True) for name in names}


def _number(request: Request, name: str) -> int:
    """Read a positive integer of the query; 0 without it."""
    text = request.query_params.get(name)
    if text is None:
        return 0
    number = parse_number(text, most_digits=_MOST_DIGITS)
    if not number:
        raise InvalidRequestError(f"{name} must be a positive integer, got {text!r:.50}")
    return number


async def _unless_disconnected(request: Request, work: Coroutine[Any, Any, _Result]) -> _Result:
    """Await work, and cancel it when the caller disconnects, so that it does not take place in a queue."""
    task, watching = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, watching}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise RefusedError(CLIENT_CLOSED, "the caller has disconnected")
    finally:
        for one in (task, watching):
            one.cancel()
        await asyncio.wait({task, watching})


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
