"""Clients of a server that send bytes as they like, over HTTP and HTTP/2."""

import json
import socket
import struct
import time

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PATH = "/v2/models/small/infer"


def request(body=b"", path=PATH, method="POST", **headers):
    """The bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: a"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if not {"Content_Length", "Transfer_Encoding"} & set(headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def good_body(x):
    entry = {"name": "hidden_states", "datatype": "FP32", "shape": x.shape, "data": x.ravel().tolist()}
    return json.dumps({"inputs": [entry]}).encode()


def sent(port, *parts, pause_s=0.0, ends=False, timeout_s=5.0):
    """What comes back until the server closes; where it does not, one answer's worth."""
    with socket.create_connection(("127.0.0.1", port), timeout_s) as connection:
        for part in parts:
            try:
                connection.sendall(part)
            except OSError:  # it has closed, and said why
                break
            time.sleep(pause_s)
        if ends:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while not is_whole(answer):
            try:
                got = connection.recv(65536)
            except ConnectionError:
                break
            if not got:
                break
            answer += got
        return answer


def is_whole(answer):
    head, end, body = answer.removeprefix(CONTINUE).partition(b"\r\n\r\n")
    if not end or b"\r\ncontent-length: " not in head.lower():
        return False
    return len(body) >= int(head.lower().split(b"\r\ncontent-length: ")[1].split(b"\r\n")[0])


def told(answer):
    """Status and sentence of an answer over HTTP."""
    head, _, body = answer.removeprefix(CONTINUE).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 "), answer[:200]
    assert b"Traceback" not in body and b"/trtllm_ext/" not in body and b"site-packages" not in body
    return int(head[9:12]), json.loads(body)["error"] if body.startswith(b"{") else body.decode()


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def call_head(path="/inference.GRPCInferenceService/ModelInfer"):
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "a",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    return b"".join(
        b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )
