"""Bodies of HTTP requests: read within a time and a size, and unpacked within it."""

import asyncio
import zlib

from starlette.requests import ClientDisconnect, Request

from trtllm_ext.serve.held import Held
from trtllm_ext.serve.refused import Reason, RefusalError

_GZIP_OR_ZLIB = 47  # zlib's own number for "whichever it is"
_UNPACKED = ("", "identity")
_PACKED = ("gzip", "deflate")
# Of a body that is too large so much is read and forgotten, so that its sender reads the answer instead of an error.
_FORGOTTEN_BYTES, _FORGOTTEN_S = 256 << 20, 2.0


class BodyReader:
    """Reads bodies. max_bytes: of one, unpacked too; timeout_s: for one. held: counts them while they are read."""

    def __init__(self, max_bytes: int, timeout_s: float, held: Held) -> None:
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._held = held

    async def read(self, request: Request) -> bytes:
        """The body. Raises RefusalError for one that is too large, too slow, or packed in another way."""
        encoding = request.headers.get("content-encoding", "").lower()
        if encoding not in (*_UNPACKED, *_PACKED):
            raise RefusalError(
                Reason.ENCODING,
                f"Content-Encoding {encoding[:40]!r} is not known; send gzip, deflate or none.",
            )
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > self._max_bytes:
            await self._forget(request)
            raise self._too_large(f"the request has {announced} bytes")
        try:
            async with asyncio.timeout(self._timeout_s):
                body = await self._joined(request)
        except RefusalError:
            await self._forget(request)
            raise
        except TimeoutError:
            raise RefusalError(
                Reason.TOO_SLOW, f"the request did not arrive within {self._timeout_s:g} s (request_timeout)."
            ) from None
        return body if encoding in _UNPACKED else self._unpacked(body)

    async def _joined(self, request: Request) -> bytes:
        message = await request.receive()
        chunks, size = [message.get("body", b"")], 0
        try:
            while True:
                size += len(chunks[-1])
                self._held.add(len(chunks[-1]))
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                self._check(size)
                if not message.get("more_body", False):
                    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
                message = await request.receive()
                chunks.append(message.get("body", b""))
        finally:
            self._held.add(-size)

    def _check(self, size: int) -> None:
        if size > self._max_bytes:
            raise self._too_large("the request is longer")
        self._held.check()

    def _unpacked(self, body: bytes) -> bytes:
        unpacker = zlib.decompressobj(_GZIP_OR_ZLIB)
        try:
            data = unpacker.decompress(body, self._max_bytes + 1)
        except zlib.error:
            raise RefusalError(Reason.INPUT, "the body is not what its Content-Encoding says.") from None
        if len(data) > self._max_bytes:
            raise self._too_large("the unpacked request is longer")
        if not unpacker.eof:
            raise RefusalError(Reason.INPUT, "the packed body ends before its end.")
        if unpacker.unused_data:
            raise RefusalError(Reason.INPUT, "more follows the packed body; send all of it packed as one.")
        return data

    def _too_large(self, what: str) -> RefusalError:
        return RefusalError(
            Reason.TOO_LARGE, f"{what}; this server takes up to {self._max_bytes} bytes (max_request_bytes)."
        )

    async def _forget(self, request: Request) -> None:
        left = _FORGOTTEN_BYTES
        try:
            async with asyncio.timeout(_FORGOTTEN_S):
                while left > 0:
                    message = await request.receive()
                    left -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return
        except TimeoutError:
            return
