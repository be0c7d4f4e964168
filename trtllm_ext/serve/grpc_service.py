"""The gRPC side: mlserver's service with its ways to load models taken out, and tensors read as they come."""

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

# What clients send is no reason for the library to write to our stderr. It reads this when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.converters import ModelMetadataResponseConverter
from mlserver.grpc.dataplane_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from mlserver.grpc.interceptors import PromServerInterceptor
from mlserver.grpc.servicers import InferenceServicer

from trtllm_ext.serve.grpc_wire import read_request, write_response
from trtllm_ext.serve.held import Held
from trtllm_ext.serve.plane import ServingPlane
from trtllm_ext.serve.ports import cannot_listen
from trtllm_ext.serve.refused import Reason, RefusalError
from trtllm_ext.serve.settings import MODEL_VERSION, QUIET_S, ServeSettings, linger_s

_HEAD_BYTES = 64 << 10


class InferenceService(InferenceServicer):
    """mlserver's servicer; nothing loads, unloads or lists models."""

    def __init__(self, plane: ServingPlane, held: Held) -> None:
        super().__init__(plane, None)
        self._plane = plane
        self._held = held
        self.last_refused = 0.0

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        try:
            if self._plane.is_leaving:
                self.last_refused = time.monotonic()
                raise RefusalError(Reason.STOPPING, "this server is stopping; ask another one, or later.")
            model = await self._plane.model(request.model_name, request.model_version)
            with self._held.holding(request.ByteSize()):
                call = read_request(request, model.input_specs, model.output_specs)
                outputs = await self._plane.run(model, call.arrays)
            return write_response(model.name, MODEL_VERSION, call, outputs, model.output_specs)
        except Exception as problem:
            await _abort(context, self._plane.told(problem))

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        try:
            model = await self._plane.model(request.name, request.version)
            return ModelMetadataResponseConverter.from_types(await model.metadata())
        except Exception as problem:
            await _abort(context, self._plane.told(problem))

    async def ModelReady(self, request: Any, context: Any) -> Any:
        try:
            return pb.ModelReadyResponse(ready=await self._plane.model_ready(request.name, request.version))
        except Exception as problem:
            await _abort(context, self._plane.told(problem))

    async def ModelStreamInfer(self, requests_stream: Any, context: Any) -> Any:
        await _abort(context, RefusalError(Reason.ENCODING, "this server does not stream; send ModelInfer."))
        yield  # what makes this a stream

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:
        await _abort(context, _NO_REPOSITORY)

    RepositoryModelLoad = RepositoryModelUnload = RepositoryIndex


_NO_REPOSITORY = RefusalError(
    Reason.ENCODING, "this server has the one model that it was started with; requests load and unload none."
)


class _Counting(PromServerInterceptor):
    """mlserver's counts of calls, whose handlers it would make anew for each call; and what is no message is told."""

    def __init__(self) -> None:
        super().__init__(enable_handling_time_histogram=True)
        self._handlers: dict[str, Any] = {}

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        method = handler_call_details.method
        if method not in self._handlers:
            handler = await super().intercept_service(continuation, handler_call_details)
            if handler is None:  # no method of ours: any number of names that clients think of
                return None
            self._handlers[method] = handler if handler.request_streaming else _telling(handler)
        return self._handlers[method]


def _telling(handler: Any) -> Any:
    """The handler, which refuses in a sentence what cannot be read; the library tells its own exception."""

    def read(data: bytes) -> Any:
        try:
            return handler.request_deserializer(data)
        except DecodeError:
            return None

    async def answer(request: Any, context: Any) -> Any:
        if request is None:
            await _abort(context, _NO_MESSAGE)
        return await handler.unary_unary(request, context)

    return handler._replace(request_deserializer=read, unary_unary=answer)


_NO_MESSAGE = RefusalError(Reason.INPUT, "the message is not what this method of the protocol takes.")


class GrpcListener:
    """A grpc.aio server with mlserver's service. To be made within the loop that runs it."""

    def __init__(self, plane: ServingPlane, settings: ServeSettings, held: Held) -> None:
        self._service = InferenceService(plane, held)
        self._server = grpc.aio.server(
            ThreadPoolExecutor(max_workers=1),  # for handlers that are not asynchronous; there are none
            interceptors=[_Counting()],
            options=[
                ("grpc.max_receive_message_length", settings.max_request_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # a port in use is an error, not a second server behind it
                ("grpc.max_metadata_size", _HEAD_BYTES),
                # Without this one, calls between the two limits are refused by chance.
                ("grpc.absolute_max_metadata_size", _HEAD_BYTES),
                ("grpc.server_handshake_timeout_ms", int(settings.request_timeout * 1000)),
            ],
        )
        add_GRPCInferenceServiceServicer_to_server(self._service, self._server)

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port. Raises ConfigError for one that cannot be had."""
        try:
            taken = self._server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except RuntimeError:
            raise cannot_listen(host, port, "--grpc_port") from None
        await self._server.start()
        return int(taken)

    async def leave(self, deadline_s: float) -> None:
        """Answer what was accepted, then end. The plane is leaving: what comes now is told so.

        The library drops requests that it has received and not handed over yet, without a word to be understood; so
        this waits until clients have heard, and send no more.
        """
        begin = time.monotonic()
        while time.monotonic() - max(begin, self._service.last_refused) < QUIET_S:
            if time.monotonic() - begin > linger_s(deadline_s):
                break
            await asyncio.sleep(0.02)
        await self._server.stop(deadline_s)


async def _abort(context: Any, refusal: RefusalError) -> None:
    await context.abort(getattr(grpc.StatusCode, refusal.reason.grpc_status), str(refusal))
