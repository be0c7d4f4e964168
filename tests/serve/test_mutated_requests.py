"""Good requests with some bytes changed: an answer or a refusal for each, over HTTP and gRPC."""

import socket

import numpy as np
import pytest
from raw_clients import good_body, is_whole, request
from server_process import triton_inputs

grpc = pytest.importorskip("grpc", reason="grpcio is not installed")
pb = pytest.importorskip("tritonclient.grpc.service_pb2", reason="tritonclient is not installed")
http_client = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")

BUDGET_S = 5


def mutated(rng, data):
    """The bytes with some changed, left out, doubled or moved."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        at, size = int(rng.integers(0, len(changed))), int(rng.integers(1, 9))
        kind = rng.integers(0, 4)
        if kind == 0:
            changed[at] = rng.integers(0, 256)
        elif kind == 1 and len(changed) > 20:
            del changed[at : at + size]
        elif kind == 2:
            changed[at:at] = changed[at : at + size]
        else:
            changed[at:at] = rng.choice([b'"', b"]", b"}", b",", b"-", b"9" * 30, b"\x00", b"null", b"1e999"])
    return bytes(changed)


def check_mutated(server, x, count, seed):
    rng = np.random.default_rng(seed)
    binary, json_size = http_client.InferenceServerClient.generate_request_body(
        triton_inputs(http_client, {"hidden_states": x}, {"hidden_states": "FP32"})
    )
    message = pb.ModelInferRequest(model_name="small")
    message.inputs.add(name="hidden_states", datatype="FP32", shape=x.shape)
    message.raw_input_contents.append(x.tobytes())
    with (
        socket.create_connection(("127.0.0.1", server.http_port), 5) as connection,
        grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
    ):
        ask = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for number in range(count):
            head = {"Inference_Header_Content_Length": json_size} if number % 2 else {}
            body = mutated(rng, binary if number % 2 else good_body(x))
            connection.sendall(request(body, **head))
            answer = b""
            while not is_whole(answer):
                answer += (got := connection.recv(65536))
                assert got, (body, answer)
            assert answer[9:12] in (b"200", b"400"), (body, answer)
            try:
                ask(mutated(rng, message.SerializeToString()))
            except grpc.RpcError as problem:
                assert problem.code().name in ("INVALID_ARGUMENT", "NOT_FOUND"), problem


def test_requests_with_bytes_changed(server, known):
    check_mutated(server, known[0], 60, seed=0)


@pytest.mark.long
def test_many_requests_with_bytes_changed(server, known):
    check_mutated(server, known[0], 20_000, seed=1)
