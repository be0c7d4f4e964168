"""The HTTP side: mlserver's application with its ways to load models taken out, and tensors read as they come."""

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
from mlserver import Settings
from mlserver.rest.app import create_app
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from trtllm_ext.serve.held import Held
from trtllm_ext.serve.http_body import BodyReader
from trtllm_ext.serve.http_wire import JSON_LENGTH_HEADER, json_length, read_body, write_body
from trtllm_ext.serve.model import metadata_json
from trtllm_ext.serve.plane import ServingPlane
from trtllm_ext.serve.refused import Reason, RefusalError
from trtllm_ext.serve.settings import MODEL_VERSION

_KEPT = {
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
}
_MODEL = ("/v2/models/{model_name}", "/v2/models/{model_name}/versions/{model_version}")
# JSON of more than this is read beside the loop, which answers others while its numbers become an array; not while the
# text is taken apart, which no other thread of Python runs beside: 60 MB of it hold all up for most of a second. One at
# a time, since a list of numbers takes eight times the room of their text.
_LONG_JSON = 256 << 10
# What is still to come of a request that was not read to its end is no request; seconds until one may be tried again.
_HEADERS = {
    Reason.TOO_LARGE: {"connection": "close"},
    Reason.TOO_SLOW: {"connection": "close"},
    Reason.QUEUE_FULL: {"retry-after": "1"},
    Reason.STOPPING: {"retry-after": "1"},
}
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class HttpApp:
    """The application that a listener serves. settings: mlserver's; its routes, metrics and errors are used."""

    def __init__(self, settings: Settings, plane: ServingPlane, bodies: BodyReader, held: Held) -> None:
        self._plane = plane
        self._held = held
        self._bodies = bodies
        self._reader = ThreadPoolExecutor(1, "trtllm_ext reader")
        app = create_app(settings, plane, model_repository_handlers=None)
        routes: list[BaseRoute] = [Route(path, self._metadata) for path in _MODEL]
        routes += [Route(f"{path}/ready", self._ready) for path in _MODEL]
        routes += [
            Route(f"{path}/infer", self._infer, methods=["POST"]) for path in _MODEL
        ]  # tells GET what it is
        self._infer_path = re.compile(
            r"/v2/models/(?P<model_name>[^/]+)(/versions/(?P<model_version>[^/]+))?/infer"
        )
        app.router.routes[:] = routes + [r for r in app.router.routes if getattr(r, "path", "") in _KEPT]
        for kind in (Exception, HTTPException):
            app.add_exception_handler(kind, self._tell)
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if self._plane.is_leaving:
            send = _closing(send)
        path = self._infer_path.fullmatch(scope["path"]) if scope["method"] == "POST" else None
        if path is None:
            await self._app(scope, receive, send)
            return
        # The layers of the application cost as much as a small engine's run, and add nothing to this.
        response = await self._infer(Request({**scope, "path_params": path.groupdict()}, receive))
        await response(scope, receive, send)

    async def _infer(self, request: Request) -> Response:
        try:
            return await self._answer(request)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except Exception as problem:
            return _error(self._plane.told(problem))

    async def _answer(self, request: Request) -> Response:
        name, version = request.path_params["model_name"], request.path_params.get("model_version")
        model = await self._plane.model(name, version)
        body = await self._bodies.read(request)
        length = request.headers.get(JSON_LENGTH_HEADER)
        given = (body, length, model.input_specs, model.output_specs)
        with self._held.holding(len(body)):
            if json_length(length, len(body)) > _LONG_JSON:
                call = await asyncio.get_running_loop().run_in_executor(self._reader, read_body, *given)
            else:
                call = read_body(*given)
            outputs = await self._plane.run(model, call.arrays)
        head = {"model_name": model.name, "model_version": MODEL_VERSION}
        if call.id:
            head["id"] = call.id
        content, head_bytes = write_body(head, call, outputs, model.output_specs)
        if not head_bytes:
            return Response(content, media_type="application/json")
        return Response(
            content, media_type="application/octet-stream", headers={JSON_LENGTH_HEADER: str(head_bytes)}
        )

    async def _metadata(self, request: Request) -> Response:
        try:
            model = await self._plane.model(
                request.path_params["model_name"], request.path_params.get("model_version")
            )
        except RefusalError as problem:
            return _error(self._plane.told(problem))
        return Response(orjson.dumps(metadata_json(await model.metadata())), media_type="application/json")

    async def _ready(self, request: Request) -> Response:
        try:
            is_ready = await self._plane.model_ready(
                request.path_params["model_name"], request.path_params.get("model_version")
            )
        except RefusalError as problem:
            return _error(self._plane.told(problem))
        return Response(status_code=200 if is_ready else 400)

    async def _tell(self, request: Request, problem: Exception) -> Response:
        """Errors of the other routes; those of HTTP itself, such as unknown addresses, keep their status."""
        if isinstance(problem, HTTPException):
            text = f"{request.method} {request.url.path[:80]}: {str(problem.detail).lower()}"
            return Response(_json_error(text), problem.status_code, problem.headers, "application/json")
        return _error(self._plane.told(problem))


def _error(refusal: RefusalError) -> Response:
    headers = _HEADERS.get(refusal.reason)
    return Response(_json_error(str(refusal)), refusal.reason.http_status, headers, "application/json")


def _json_error(text: str) -> bytes:
    return orjson.dumps({"error": text})


def _closing(send: Send) -> Send:
    """Tell the client with its answer that the connection ends, so that it sends nothing into a closed one."""

    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), (b"connection", b"close")]
        await send(message)

    return wrapped
