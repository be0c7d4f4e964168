"""An encoder behind the real server: standard clients get the session's numbers, and bad ones a sentence."""

import contextlib
import gzip
import json
import os
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from encoder_formulas import formula, mean_pooled
from server_process import encoder_inputs, serving, triton_inputs
from small_encoder import make_encoder

from trtllm_ext.checkpoint import load_checkpoint
from trtllm_ext.runtime import Session

grpc_client = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
http_client = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")

BUDGET_S = 6

TYPES = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), "INT32")
MODULES = {"http": http_client, "grpc": grpc_client}
MOST_BYTES = 100_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder")
    make_encoder(path)
    return path


@pytest.fixture(scope="module")
def server(folder):
    with serving(
        folder / "engine",
        "--max_request_bytes",
        str(MOST_BYTES),
        "--request_timeout",
        "1",
        "--model_name",
        "small",
    ) as server:
        yield server
        assert server.stop() == (0, ""), "bad clients are no reason to write to the log"


@pytest.fixture(params=["http", "grpc"])
def client(server, request):
    with MODULES[request.param].InferenceServerClient(
        f"127.0.0.1:{getattr(server, f'{request.param}_port')}"
    ) as made:
        yield made


def module_of(client):
    return http_client if isinstance(client, http_client.InferenceServerClient) else grpc_client


def infer(client, arrays, outputs=None, types=TYPES, **more):
    module = module_of(client)
    asked = [module.InferRequestedOutput(name) for name in outputs] if outputs else None
    return client.infer("small", triton_inputs(module, arrays, types), outputs=asked, **more)


def get(server, path, port=None):
    with urllib.request.urlopen(f"http://127.0.0.1:{port or server.http_port}{path}") as answer:
        return answer.read().decode()


def post(server, body, path="/v2/models/small/infer", **headers):
    """(status, what came back) of a plain HTTP request."""
    asked = urllib.request.Request(f"http://127.0.0.1:{server.http_port}{path}", body, headers)
    try:
        with urllib.request.urlopen(asked) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as problem:
        with problem:
            return problem.code, json.loads(problem.read())["error"]


def raw(port, data, timeout_s=5.0):
    """What a socket answers to these bytes until it closes."""
    with socket.create_connection(("127.0.0.1", port), timeout_s) as connection:
        connection.sendall(data)
        answer = b""
        while got := connection.recv(65536):
            answer += got
        return answer


def as_json(arrays):
    entries = [
        {"name": name, "datatype": "INT32", "shape": array.shape, "data": array.tolist()}
        for name, array in arrays.items()
    ]
    return json.dumps({"inputs": entries, "outputs": [{"name": "sentence_embedding"}]}).encode()


# --- what it says of itself, and what it answers ----------------------------------------------------------------


def test_what_it_says_of_itself_is_what_the_engine_is(server, client, folder):
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("small", "1")
    told = client.get_model_metadata(
        "small", **({"as_json": True} if module_of(client) is grpc_client else {})
    )
    envelope = json.loads((folder / "engine" / "rank0.envelope.json").read_text())
    assert [each["name"] for each in told["inputs"]] == [each["name"] for each in envelope["inputs"]]
    assert {each["datatype"] for each in told["inputs"]} == {"INT32"}
    assert [[int(dim) for dim in each["shape"]] for each in told["outputs"]] == [[-1, -1, 32], [-1, 32]]
    if module_of(client) is http_client:  # Triton's own messages over gRPC have no room for it
        assert told["parameters"]["build_id"] == envelope["build_id"]


def test_one_request_gives_the_sessions_bits_and_the_formulas_numbers(client, folder, one_thread):
    arrays = encoder_inputs(7, 4, 1)
    with Session.from_engine_dir(folder / "engine") as session:
        expected = session.run(arrays)
    answer = infer(client, arrays, request_id="seven")
    for name, value in expected.items():
        np.testing.assert_array_equal(answer.as_numpy(name), value)
    weights = {
        name: value.astype(np.float64)
        for name, value in load_checkpoint(folder / "checkpoint").weights.items()
    }
    reference = mean_pooled(formula(weights, arrays), arrays["attention_mask"])
    np.testing.assert_allclose(answer.as_numpy("sentence_embedding"), reference, atol=1e-5)
    response = answer.get_response()
    assert (response["id"] if isinstance(response, dict) else response.id) == "seven"


def test_requests_that_run_together_get_their_own_answers(server, client, folder, one_thread):
    requests = [
        encoder_inputs(*lengths, seed=seed)
        for seed, lengths in enumerate([(5,), (8, 6), (7,), (13,), (20, 2), (3,)] * 3)
    ]
    with Session.from_engine_dir(folder / "engine") as session:
        expected = [session.run(arrays) for arrays in requests]
    before = sum_of(server, "trtllm_ext_batch_requests")
    answers = [None] * len(requests)

    def ask(index):
        with module_of(client).InferenceServerClient(client_url(client, server)) as own:
            answers[index] = infer(own, requests[index])

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for answer, outputs in zip(answers, expected, strict=True):
        for name, value in outputs.items():
            np.testing.assert_allclose(answer.as_numpy(name), value, atol=2e-6)
    requests_run, runs = np.subtract(sum_of(server, "trtllm_ext_batch_requests"), before)
    assert requests_run == len(requests) >= runs


def client_url(client, server):
    return f"127.0.0.1:{server.http_port if module_of(client) is http_client else server.grpc_port}"


def sum_of(server, metric):
    """(sum, count) of a histogram."""
    text = get(server, "/metrics", server.metrics_port)
    return [float(re.search(rf"^{metric}_{part} (.*)$", text, re.M)[1]) for part in ("sum", "count")]


def test_json_by_hand_as_curl_sends_it(server, folder, one_thread):
    arrays = encoder_inputs(6)
    with Session.from_engine_dir(folder / "engine") as session:
        expected = session.run(arrays)["sentence_embedding"]
    for body, headers in (
        (as_json(arrays), {}),
        (gzip.compress(as_json(arrays)), {"Content-Encoding": "gzip"}),
    ):
        status, answer = post(server, body, **headers)
        assert status == 200 and answer["model_name"] == "small" and "id" not in answer
        (output,) = answer["outputs"]
        assert output["name"] == "sentence_embedding" and output["shape"] == [1, 32]
        np.testing.assert_array_equal(np.array(output["data"], np.float32), expected.ravel())


# --- what it refuses --------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_in_a_sentence(client, folder):
    one = encoder_inputs(3)
    longs = {name: array.astype(np.int64) for name, array in one.items()}
    cases = [
        (
            "unknown input 'input_idz'.*Did you mean input_ids",
            {"input_idz" if n == "input_ids" else n: a for n, a in one.items()},
            {},
        ),
        ("'token_type_ids' is missing", {name: one[name] for name in ("input_ids", "attention_mask")}, {}),
        ("datatype 'INT64'; expected 'INT32'", longs, {"types": dict.fromkeys(TYPES, "INT64")}),
        (r"has shape \[3\]; expected \[-1, -1\]", {name: array[0] for name, array in one.items()}, {}),
        (r"\(5, 2\); the engine allows \(1, 1\) to \(4, 20\)", encoder_inputs(2, 2, 2, 2, 2), {}),
        (r"dimension 1 \(input_len\) is 21, allowed 1 to 20", encoder_inputs(21), {}),
        (r"dimension 0 \(batch_size\) is 0", {name: array[:0] for name, array in one.items()}, {}),
        ("length: 3 in input 'input_ids' but 2", {**one, "attention_mask": one["attention_mask"][:, :2]}, {}),
        ("ids from 999 to 999; this model has 0 to 59", {**one, "input_ids": one["input_ids"] * 0 + 999}, {}),
        ("ids from -1 to", {**one, "input_ids": one["input_ids"] * 0 - 1}, {}),
        ("unknown output 'nothing'", one, {"outputs": ["nothing"]}),
    ]
    for told, arrays, more in cases:
        types = more.pop("types", dict.fromkeys(arrays, "INT32"))
        with pytest.raises(Exception, match=told) as problem:
            infer(client, arrays, types=types, **more)
        assert problem.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")
        assert str(folder) not in str(problem.value) and "Traceback" not in str(problem.value)
    with pytest.raises(Exception, match="model 'other' is not here; this server has small, version 1"):
        client.infer("other", triton_inputs(module_of(client), one, TYPES))
    with pytest.raises(Exception, match="version '2' is not here"):
        client.infer("small", triton_inputs(module_of(client), one, TYPES), model_version="2")


def test_no_request_loads_lists_or_reads_anything_else(server, client):
    for ask in (
        client.get_model_repository_index,
        lambda: client.load_model("/etc/passwd"),
        lambda: client.unload_model("small"),
        lambda: client.register_system_shared_memory("a", "/dev/shm/a", 64),
    ):
        with pytest.raises(Exception, match=r"(?i)not.found|has the one model|unimplemented|not implemented"):
            ask()
    for path in (
        "/v2/models/..%2f..%2fetc",
        "/v2/docs",
        "/v2/models/small/docs",
        "/openapi.json",
        "/v2/models/small/generate",
        "/v2/models/other/ready",
    ):
        with pytest.raises(urllib.error.HTTPError, match=r"404|405"):
            get(server, path)
    assert client.is_model_ready("small")


def test_bodies_that_are_too_large_or_packed_too_well(server):
    head = b"POST /v2/models/small/infer HTTP/1.1\r\nHost: a\r\n"
    large = b"x" * (3 * MOST_BYTES)
    assert post(server, large) == (
        413,
        f"the request has {len(large)} bytes; this server takes up to {MOST_BYTES} bytes (max_request_bytes).",
    )
    chunks = b"".join(b"8000\r\n" + b"x" * 0x8000 + b"\r\n" for _ in range(6)) + b"0\r\n\r\n"
    assert b" 413 " in raw(server.http_port, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
    status, told = post(server, gzip.compress(bytes(10 * MOST_BYTES)), **{"Content-Encoding": "gzip"})
    assert status == 413 and "unpacked" in told
    assert post(server, b"packed", **{"Content-Encoding": "br"})[0] == 415
    assert post(server, b"not gzip", **{"Content-Encoding": "gzip"}) == (
        400,
        "the body is not what its Content-Encoding says.",
    )
    with grpc_client.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        for packing in (None, "gzip"):
            with pytest.raises(Exception, match="larger than max"):
                infer(
                    client, {"input_ids": np.zeros((1, MOST_BYTES), np.int32)}, compression_algorithm=packing
                )


def test_slow_senders_and_garbage_get_an_end(server):
    head = b"POST /v2/models/small/infer HTTP/1.1\r\nHost: a\r\n"
    answers = {}

    def send(name, port, data):
        answers[name] = raw(port, data)

    cases = {
        "slow body": (server.http_port, head + b"Content-Length: 9\r\n\r\nabc"),
        "slow head": (server.http_port, head),
        "long head": (server.http_port, head + b"A: " + b"a" * 70_000),
        "garbage": (server.http_port, b"\x00\xff garbage\r\n\r\n"),
        "garbage for gRPC": (server.grpc_port, os.urandom(3000)),
        "HTTP for gRPC": (server.grpc_port, head + b"\r\n"),
    }
    threads = [threading.Thread(target=send, args=(name, *case)) for name, case in cases.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    starts = {name: answer[9:12] for name, answer in answers.items() if "gRPC" not in name}
    assert starts == {"slow body": b"408", "slow head": b"408", "long head": b"431", "garbage": b"400"}
    assert len(answers) == len(cases), "each connection was closed"


def sockets_of(server):
    found = 0
    for entry in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            found += str(entry.readlink()).startswith("socket:")
    return found


def test_500_idle_connections_keep_nobody_out_and_leave_nothing(server):
    before = sockets_of(server)
    ports = (server.http_port, server.grpc_port)
    idle = [socket.create_connection(("127.0.0.1", ports[index % 2])) for index in range(500)]
    try:
        end = time.monotonic() + 5
        while sockets_of(server) < before + 500:
            assert time.monotonic() < end, "500 connections are held at a time"
            time.sleep(0.02)
        assert post(server, as_json(encoder_inputs(4)))[0] == 200
        with grpc_client.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
            assert (
                client.is_server_ready()
                and infer(client, encoder_inputs(4)).as_numpy("sentence_embedding") is not None
            )
    finally:
        for connection in idle:
            connection.close()
    end = time.monotonic() + 5
    while (left := sockets_of(server)) > before + 10 and time.monotonic() < end:
        time.sleep(0.02)
    assert left <= before + 10, "a few clients of other tests may still close"


def test_what_it_counts(server):
    before = get(server, "/metrics", server.metrics_port)
    assert post(server, as_json(encoder_inputs(4, 5)))[0] == 200
    assert post(server, b"{}")[0] == 400
    for number in range(3):
        assert post(server, b"{}", path=f"/v2/models/m{number}/infer")[0] == 404
    after = get(server, "/metrics", server.metrics_port)

    def grown(line):
        return float(re.search(rf"^{line} (.*)$", after, re.M)[1]) - float(
            (re.search(rf"^{line} (.*)$", before, re.M) or "00")[1]
        )

    assert grown("trtllm_ext_batch_rows_sum") == 2 and grown("trtllm_ext_run_seconds_count") == 1
    assert grown('trtllm_ext_refused_total{reason="input"}') == 1
    assert grown('trtllm_ext_refused_total{reason="not_found"}') == 3
    assert grown('model_infer_request_success_total{model="small",version="1"}') == 1
    assert "trtllm_ext_queue_length 0.0" in after
    assert len(after.splitlines()) - len(before.splitlines()) < 3, (
        "names that clients think of make no metrics"
    )
