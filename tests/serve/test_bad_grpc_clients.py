"""Clients that break the rules of HTTP/2 and gRPC: each gets an end, and the next one an answer."""

import socket
import struct

import pytest
from raw_clients import PREFACE, call_head, frame

grpc = pytest.importorskip("grpc", reason="grpcio is not installed")
pb = pytest.importorskip("tritonclient.grpc.service_pb2", reason="tritonclient is not installed")

BUDGET_S = 5

HIDDEN = 8


def http2(server, *frames, seconds=0.3):
    """Bytes that come back within a time, or until the end."""
    with socket.create_connection(("127.0.0.1", server.grpc_port), seconds) as connection:
        answer = b""
        try:
            connection.sendall(PREFACE + frame(4, 0, 0) + b"".join(frames))
            while got := connection.recv(65536):
                answer += got
        except OSError:
            pass
        return answer


def test_calls_that_are_reset_at_once(server):
    message = struct.pack(">BI", 0, 4) + b"abcd"
    frames = []
    for number in range(3000):
        stream = 2 * number + 1
        frames += [
            frame(1, 4, stream, call_head()),
            frame(0, 1, stream, message),
            frame(3, 0, stream, struct.pack(">I", 8)),
        ]
    http2(server, *frames, seconds=1.0)


@pytest.mark.parametrize(
    "frames",
    [
        [
            frame(1, 4, 1, call_head()),
            frame(0, 1, 1, struct.pack(">BI", 0, 9) + b"\xff" * 9),
        ],  # no such message
        [
            frame(1, 4, 1, call_head()),
            frame(0, 1, 1, struct.pack(">BI", 0, 2**31) + b"abc"),
        ],  # longer than it is
        [
            frame(1, 4, 1, call_head()),
            frame(0, 1, 1, struct.pack(">BI", 1, 3) + b"abc"),
        ],  # packed in no known way
        [frame(1, 5, 1, call_head("/inference.GRPCInferenceService/Nothing"))],
        [frame(1, 5, 1, call_head("/../../etc/passwd"))],
        [frame(1, 4, 1, b"\xff" * 100)],  # headers that are none
        [frame(1, 0, 1, call_head()), *[frame(9, 0, 1, call_head())] * 500],  # headers without an end
        [frame(4, 0, 0, b"\x00\x04\xff\xff\xff\xff")],  # a window that cannot be
        [frame(6, 0, 0, b"12345678")] * 5000,  # pings
        [frame(8, 0, 0, b"\x00\x00\x00\x00")],  # a window of nothing
        [b"\xff\xff\xff" + b"\x00" * 60],  # a frame that is too large
    ],
    ids=[
        "no message",
        "too short",
        "packed",
        "no method",
        "a path",
        "headers",
        "continued",
        "window",
        "pings",
        "0",
        "large",
    ],
)
def test_frames_that_are_none(server, frames):
    answer = http2(server, *frames)
    assert b"Traceback" not in answer and b"site-packages" not in answer


def test_messages_that_contradict_themselves(server, known):
    from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

    x = known[0]
    bits = (x.tobytes(),)

    def message(shape=x.shape, raw=bits, **more):
        made = pb.ModelInferRequest(**{"model_name": "small", **more})
        made.inputs.add(name="hidden_states", datatype="FP32", shape=shape)
        made.raw_input_contents.extend(raw)
        return made

    both = message()
    both.inputs[0].contents.fp32_contents.extend([1.0])
    wrong_field = message(raw=())
    wrong_field.inputs[0].contents.int64_contents.extend([1] * x.size)
    cases = [
        (message(raw=[x.tobytes()] * 2), "INVALID_ARGUMENT", "one for each"),
        (message(raw=[x.tobytes()[:-1]]), "INVALID_ARGUMENT", "needs 96 bytes, got 95"),
        (message(shape=(-3, HIDDEN)), "INVALID_ARGUMENT", "expected a list of sizes"),
        (message(shape=(2**62, HIDDEN)), "INVALID_ARGUMENT", "the engine allows"),
        (both, "INVALID_ARGUMENT", "both"),
        (wrong_field, "INVALID_ARGUMENT", "needs 24 elements, got 0"),
        (message(model_name="../../etc/passwd"), "NOT_FOUND", "is not here"),
        (message(model_name="x" * 100_000), "NOT_FOUND", "is not here"),
        (message(model_version="../1"), "NOT_FOUND", "is not here"),
        (pb.ModelInferRequest(), "NOT_FOUND", "is not here"),
        (pb.ModelInferRequest(model_name="small"), "INVALID_ARGUMENT", "missing"),
    ]
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        for given, status, sentence in cases:
            with pytest.raises(grpc.RpcError) as problem:
                stub.ModelInfer(given)
            assert problem.value.code().name == status and sentence in problem.value.details()
            assert len(problem.value.details()) < 500
        calls = [stub.ModelInfer.future(message(), timeout=10) for _ in range(200)]
        for call in calls:
            call.cancel()
        with pytest.raises(grpc.RpcError) as problem:
            stub.ModelInfer(message(), metadata=[("x", "a" * 70_000)])
        assert problem.value.code().name == "RESOURCE_EXHAUSTED"
        load = pb.RepositoryModelLoadRequest(model_name="../../etc")
        load.parameters["config"].string_param = "{}"
        with pytest.raises(grpc.RpcError, match="has the one model"):
            stub.RepositoryModelLoad(load)
