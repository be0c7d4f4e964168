"""Requests as bytes, and clients that send them again and again: they cost little beside what they measure.

tritonclient makes the bytes and reads the answers. What lies between costs as much as the server with a library for
Python, so a connection here sends bytes that are made beforehand and looks for an answer's end.
"""

import selectors
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

Arrays = dict[str, np.ndarray]
_DATATYPES = {"float32": "FP32", "int32": "INT32"}
_DATA, _HEADERS, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 4, 6, 7, 8
_ACK = 1


@dataclass
class Load:
    """What clients saw: seconds of each answer, and of all together."""

    latencies_s: list[float] = field(default_factory=list)
    took_s: float = 0.0
    processor_s: float = 0.0


def http_request(arrays: Arrays, output: str) -> bytes:
    """A request of the model "engine" for one output, tensors as binary data."""
    import tritonclient.http as client

    body, json_size = client.InferenceServerClient.generate_request_body(
        _inputs(client, arrays), [client.InferRequestedOutput(output, binary_data=True)]
    )
    head = (
        f"POST /v2/models/engine/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/octet-stream\r\n"
        f"Inference-Header-Content-Length: {json_size}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def http_output(answer: bytes, output: str) -> np.ndarray:
    """The output of a whole answer, or what it says instead as a SystemExit."""
    import tritonclient.http as client

    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"an answer that is none: {answer[:500]!r}")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    size = int(fields[b"inference-header-content-length"])
    return client.InferenceServerClient.parse_response_body(body, header_length=size).as_numpy(output)


def grpc_request(arrays: Arrays, output: str) -> bytes:
    """A message of ModelInfer, as http_request has it, with the five bytes before it."""
    import tritonclient.grpc as client
    from tritonclient.grpc.service_pb2 import ModelInferRequest

    given = _inputs(client, arrays)
    message = ModelInferRequest(model_name="engine")
    message.inputs.extend(each._get_tensor() for each in given)
    message.raw_input_contents.extend(array.tobytes() for array in arrays.values())
    message.outputs.add(name=output)
    data = message.SerializeToString()
    return struct.pack(">BI", 0, len(data)) + data


def grpc_output(answer: bytes, output: str) -> np.ndarray:
    """The output of an answer's message."""
    import tritonclient.grpc as client
    from tritonclient.grpc.service_pb2 import ModelInferResponse

    return client.InferResult(ModelInferResponse.FromString(answer[5:])).as_numpy(output)


def _inputs(client, arrays: Arrays):
    made = []
    for name, array in arrays.items():
        made.append(client.InferInput(name, list(array.shape), _DATATYPES[str(array.dtype)]))
        made[-1].set_data_from_numpy(array)
    return made


class HttpConnection:
    """A connection that asks the same again and again."""

    def __init__(self, port: int, request: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = request
        self.answer = b""
        self._needed = 0

    def ask(self) -> None:
        self.answer, self._needed = b"", 0
        self.socket.sendall(self._request)

    def read(self) -> bool:
        """Read what is there; whether the answer is whole."""
        got = self.socket.recv(1 << 16)
        if not got:
            raise SystemExit("the server closed a connection")
        self.answer += got
        if not self._needed:
            end = self.answer.find(b"\r\n\r\n")
            if end < 0:
                return False
            head = self.answer[:end].lower()
            at = head.index(b"\r\ncontent-length: ") + 18
            self._needed = end + 4 + int(head[at:].split(b"\r\n", 1)[0])
        return len(self.answer) >= self._needed


class GrpcConnection:
    """The same over HTTP/2, as far as calls need it that come one after the other."""

    def __init__(self, port: int, request: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # No table of headers, so that frames of headers are the same each time; windows that are never used up.
        settings = struct.pack(">HIHIHI", 1, 0, 2, 0, 4, 2**31 - 1)
        self.socket.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(_SETTINGS, 0, 0, settings)
            + _frame(8, 0, 0, b"\x7f\x00\x00\x00")
        )
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": "/inference.GRPCInferenceService/ModelInfer",
            ":authority": "127.0.0.1",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        self._head = b"".join(
            b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
            for name, value in fields.items()
        )
        self._request = request
        self._stream = -1
        self._left = b""
        self.answer = b""

    def ask(self) -> None:
        self._stream += 2
        self.answer = b""
        self.socket.sendall(
            _frame(_HEADERS, 4, self._stream, self._head) + _frame(_DATA, 1, self._stream, self._request)
        )

    def read(self) -> bool:
        got = self.socket.recv(1 << 16)
        if not got:
            raise SystemExit("the server closed a connection")
        data, at, is_whole = self._left + got, 0, False
        while at + 9 <= len(data):
            size = int.from_bytes(data[at : at + 3], "big")
            if at + 9 + size > len(data):
                break
            is_whole |= self._take(data[at + 3], data[at + 4], data[at + 9 : at + 9 + size])
            at += 9 + size
        self._left = data[at:]
        return is_whole

    def _take(self, kind: int, flags: int, payload: bytes) -> bool:
        """Whether this frame ends the call."""
        if kind in (_SETTINGS, _PING) and not flags & _ACK:
            self.socket.sendall(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
        elif kind == _DATA:
            self.answer += payload
        elif kind == _HEADERS and flags & 1:
            if not self.answer:
                raise SystemExit(f"an answer that is none: {payload[:500]!r}")
            return True
        elif kind == _GOAWAY:
            raise SystemExit("the server ended a connection")
        return False


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


CONNECTIONS = {"HTTP": HttpConnection, "gRPC": GrpcConnection}


def answers(protocol: str, port: int, requests: Sequence[bytes]) -> list[bytes]:
    """What the server answers to each, asked one after the other."""
    found = []
    for request in requests:
        connection = CONNECTIONS[protocol](port, request)
        connection.ask()
        while not connection.read():
            pass
        found.append(connection.answer)
        connection.socket.close()
    return found


def load(protocol: str, port: int, requests: Sequence[bytes], seconds: float) -> Load:
    """One client a request, each asking again as soon as it has its answer; a tenth of the time is not counted."""
    with selectors.DefaultSelector() as selector:
        connections = [CONNECTIONS[protocol](port, request) for request in requests]
        begun = {}
        for connection in connections:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            begun[connection] = time.perf_counter()
            connection.ask()
        found = Load()
        start = time.perf_counter() + seconds / 10
        used, now, end = 0.0, 0.0, start + seconds
        while now < end:
            for key, _ in selector.select():
                connection = key.data
                if not connection.read():
                    continue
                now = time.perf_counter()
                if begun[connection] >= start:
                    found.latencies_s.append(now - begun[connection])
                elif now < start:
                    used = time.process_time()
                begun[connection] = now
                if now < end:
                    connection.ask()
    found.took_s = now - start
    found.processor_s = time.process_time() - used
    for connection in connections:
        connection.socket.close()
    return found
