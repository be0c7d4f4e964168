"""uvicorn's server and its HTTP protocol, with limits for slow heads of requests and a way to leave kindly."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from trtllm_ext.serve.settings import LINGER_S, QUIET_S

# uvicorn has no limit for the head of a request with this parser; addresses and headers of ours are short.
_MOST_HEAD_BYTES = 64 << 10
_KEEP_ALIVE_S = 75
_BACKLOG = 2048


class PatientProtocol(HttpToolsProtocol):
    """A connection that closes when a request's head is too slow or too long, or when nothing ever comes."""

    head_timeout_s = 30.0
    last_used = 0.0

    def connection_made(self, transport: Any) -> None:
        self.app = _until_closed(self.config.loaded_app, transport)
        self._head: asyncio.TimerHandle | None = None
        self._head_bytes = self._came = 0
        super().connection_made(transport)
        self._expect_another()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._came = len(data)
        super().data_received(data)
        self._head_bytes += len(data)
        if self._head is None:
            # An empty line, or the rest of a body that was answered already: no request has begun.
            if self.cycle is None or self.cycle.response_complete:
                self._expect_another()
        elif self._head_bytes > _MOST_HEAD_BYTES:
            self._refuse(b"431 Request Header Fields Too Large")

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio asks, uvicorn never answers
        """Whether the connection stays for an answer: who has sent a whole request and no more may still listen."""
        last = self.pipeline[0][0] if self.pipeline else self.cycle
        if last is None or last.more_body or last.response_complete:
            return False
        last.keep_alive = False
        return True

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._head_bytes = -self._came  # which is counted when it has all been read; none of the next head's

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head = self.loop.call_later(self.head_timeout_s, self._refuse, b"408 Request Timeout")

    def on_headers_complete(self) -> None:
        self._end_head()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        type(self).last_used = time.monotonic()
        super().on_response_complete()

    def _expect_another(self) -> None:
        self._unset_keepalive_if_required()
        if not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _end_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _refuse(self, status: bytes) -> None:
        self._end_head()
        if not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            )
            self.transport.close()


def _until_closed(app: Any, transport: Any) -> Any:
    """The application, to which a connection that was closed is a client that is gone.

    uvicorn tells this to the last of several requests in a row only, and the others meet uvloop's RuntimeError.
    """

    async def called(scope: Any, receive: Any, send: Any) -> None:
        async def received() -> Any:
            try:
                return await receive()
            except (RuntimeError, OSError):
                if not transport.is_closing():
                    raise
                return {"type": "http.disconnect"}

        async def sent(message: Any) -> None:
            try:
                await send(message)
            except (RuntimeError, OSError):
                if not transport.is_closing():
                    raise

        await app(scope, received, sent)

    return called


class HttpListener(uvicorn.Server):
    """Serves an application on a bound socket until `leave`. head_timeout_s: for the head of a request."""

    def __init__(self, app: Any, listening: socket.socket, head_timeout_s: float) -> None:
        protocol = type("Protocol", (PatientProtocol,), {"head_timeout_s": head_timeout_s})
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=_BACKLOG,
                timeout_keep_alive=_KEEP_ALIVE_S,
            )
        )
        self._protocol: type[PatientProtocol] = protocol
        self._listening = listening
        self.listens = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the whole server's."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's; sets `listens`."""
        await super().startup(sockets)
        self.listens.set()

    async def run_until_left(self) -> None:
        """Serve; returns when `leave` was called and all is answered."""
        await self.serve(sockets=[self._listening])

    async def leave(self, linger_s: float = LINGER_S) -> None:
        """Accept no more connections; answer what comes on those that are there until they are quiet, then close."""
        for server in getattr(self, "servers", []):
            server.close()
        end = time.monotonic() + linger_s
        begin = time.monotonic()
        while self.server_state.connections and time.monotonic() < end:
            quiet_since = max(begin, self._protocol.last_used)
            if not self.server_state.tasks and time.monotonic() - quiet_since > QUIET_S:
                break
            await asyncio.sleep(0.02)
        self.should_exit = True

    def cut(self) -> None:
        """Close the connections that are left, whose clients may never read what they are sent: uvicorn would wait."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()
