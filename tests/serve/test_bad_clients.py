"""Clients that break the rules of HTTP, JSON and the protocol: each gets an end, and the next one an answer."""

import json
import socket
import struct
import threading

import numpy as np
import pytest
from raw_clients import good_body, request, sent, told
from server_process import triton_inputs

http_client = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")

BUDGET_S = 6

HIDDEN = 8


def check_400(server, body, sentence, **headers):
    status, said = told(sent(server.http_port, request(body, **headers)))
    assert (status, sentence in said) == (400, True), (status, said)


# --- JSON and binary data -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "body", "sentence"),
    [
        ("deep lists", b'{"inputs": ' + b"[" * 200_000, "not JSON"),
        ("deep objects", b'{"a":' * 200_000, "not JSON"),
        ("deep data", b"[" * 900 + b"]" * 900, "lists"),
        ("a huge number", b"1e400", "not JSON"),
        ("a long number", b"9" * 100_000, "not JSON"),
        ("a number beyond the type", b"[" + b"9" * 60 + b", 0, 0, 0, 0, 0, 0, 0]", "too large for FP32"),
        ("NaN", b"[NaN]", "not JSON"),
        ("Infinity", b"[-Infinity]", "not JSON"),
        ("bytes that are no UTF-8", b'["\xff\xfe"]', "not JSON"),
        ("half a pair of UTF-16", b'["\\ud800"]', "not JSON"),
        ("null", b"null", "expected a list"),
        ("texts", b"[" + b'"1", ' * 7 + b'"1"]', "takes numbers"),
        ("objects", b"[{}]", ""),
    ],
)
def test_json_that_is_none_or_too_much(server, name, body, sentence):
    if not name.startswith("deep ") or name == "deep data":
        entry = b'{"name": "hidden_states", "datatype": "FP32", "shape": [1, 8], "data": ' + body + b"}"
        body = b'{"inputs": [' + entry + b"]}"
    check_400(server, body, sentence)


def test_requests_that_claim_what_they_do_not_hold(server):
    entry = {"name": "hidden_states", "datatype": "FP32", "shape": [1, HIDDEN], "data": [0.5] * HIDDEN}

    def refused(sentence, inputs=None, **more):
        changed = {key: value for key, value in {**entry, **more}.items() if value is not None}
        check_400(server, json.dumps({"inputs": inputs or [changed]}).encode(), sentence)

    refused("the engine allows", shape=[2**40, HIDDEN])
    refused("expected a list of sizes", shape=[2**62, 2**62 * 4])
    refused("expected a list of sizes", shape=[True, HIDDEN])
    refused("expected a list of sizes", shape=[1e308, HIDDEN])
    refused("expected a list of sizes", shape=[[1], HIDDEN])
    refused("(0, 8)", shape=[0, HIDDEN], data=[])
    refused("(17, 8)", shape=[17, HIDDEN], data=[0.0] * 17 * HIDDEN)
    refused("given twice", inputs=[entry, entry])
    refused("unknown input", inputs=[{**entry, "name": f"x{number}"} for number in range(10_000)])
    refused("not a list of JSON objects", inputs={"hidden_states": 1})
    for size in (-1, 2**70, "32", 31.5, True, [32], None):
        refused(
            "binary_data_size" if size is not None else "expected a list",
            parameters={"binary_data_size": size},
            data=None,
        )


@pytest.mark.parametrize(
    "length", ["-1", "+5", "9999999999999999999999", "0x10", "1e1", "", "5, 5", "\u0665", " 7 7"]
)
def test_a_length_of_the_json_that_is_none(server, length, known):
    check_400(server, good_body(known[0]), "", Inference_Header_Content_Length=length)


def test_what_is_not_finite_stays_with_its_client(server, known):
    x, expected = known
    bad = np.full_like(x, np.nan)
    bad[0, 0] = np.inf
    answers = {}

    def ask(number):
        with http_client.InferenceServerClient(f"127.0.0.1:{server.http_port}") as client:
            arrays = {"hidden_states": bad if number % 2 else x}
            answer = client.infer("small", triton_inputs(http_client, arrays, {"hidden_states": "FP32"}))
            answers[number] = answer.as_numpy("hidden_states_out")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, answer in answers.items():
        if number % 2:
            assert np.isnan(answer[1:]).all()
        else:
            np.testing.assert_allclose(answer, expected, atol=1e-6)
    assert len(answers) == 12


# --- HTTP ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "statuses"),
    [
        ({"Content_Length": "-5"}, {400}),
        ({"Content_Length": "99999999999999999999999"}, {400, 413}),
        ({"Content_Length": "99999999999"}, {413}),
        ({"Content_Length": "4\r\nContent-Length: 5"}, {400}),
        ({"Content_Length": "4\r\nTransfer-Encoding: chunked"}, {400}),
        ({"Transfer_Encoding": "chunked, gzip"}, {400}),
        ({"Transfer_Encoding": "chunked", "X": "\x00"}, {400}),
        ({"Expect": "100-continue", "Content_Length": "4"}, {400}),
        ({"Upgrade": "h2c", "Connection": "Upgrade, HTTP2-Settings"}, {400}),
    ],
)
def test_heads_that_lie(server, head, statuses):
    answer = sent(server.http_port, request(b"12\r\n", **head))
    assert told(answer)[0] in statuses


def test_chunks_that_lie(server):
    head = request(Transfer_Encoding="chunked")
    for chunks in (b"zz\r\n", b"-1\r\nabc\r\n", b"5\r\nabc\r\n0\r\n\r\n", b"ffffffffffffffffff\r\nabc"):
        assert int(sent(server.http_port, head, chunks)[9:12]) in (400, 408, 413), chunks


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "BREW"])
def test_other_methods(server, method):
    answer = sent(server.http_port, request(method=method, Connection="close"))
    assert answer[9:12] in (b"405", b"400"), answer[:200]


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/../../../../etc/passwd",
        "/v2/models/..%2f..%2f..%2fetc%2fpasswd/infer",
        "/v2/models/small/versions/..%2f..%2fetc/infer",
        "/v2/models/small/versions/%00/infer",
        "/v2/models/%2e%2e/infer",
        "/v2/models/" + "a" * 20_000 + "/infer",
        "/v2/models/small%00.plan/infer",
        "/v2/models/%ff%fe/infer",
        "/v2/models//infer",
        "/v2/models/{}/infer",
        "/v2/repository/index",
        "/v2/repository/models/small/unload",
        "/v2/repository/models/..%2f..%2fetc/load",
        "//v2/models/small/infer/../../../etc/passwd",
    ],
)
def test_paths_that_lead_nowhere(server, path, known):
    answer = sent(server.http_port, request(good_body(known[0]), path, Connection="close"))
    status, said = told(answer)
    assert status in (404, 405) and len(said) < 500 and "root:" not in said


def test_bytes_one_by_one(server, known):
    x, expected = known
    data = request(good_body(x))
    # Few enough that a busy machine, too, sends them within the second that a request has.
    pieces = [
        *(data[at : at + 1] for at in range(20)),
        data[20:-20],
        *(data[at:][:1] for at in range(-20, 0)),
    ]
    in_time = sent(server.http_port, *pieces, pause_s=0.001)
    (output,) = json.loads(in_time.partition(b"\r\n\r\n")[2])["outputs"]
    np.testing.assert_allclose(np.array(output["data"], np.float32).reshape(3, HIDDEN), expected, atol=1e-6)
    for slow in (data[:40], data[:-20]):  # within the head; within the body
        parts = [slow[:-30], *(slow[at : at + 1] for at in range(len(slow) - 30, len(slow)))]
        assert told(sent(server.http_port, *parts, pause_s=0.05))[0] == 408


def test_a_client_that_sends_no_more_but_listens(server, known):
    for requests in ([request(good_body(known[0]))], [request(good_body(known[0]))] * 3):
        with socket.create_connection(("127.0.0.1", server.http_port), 5) as connection:
            connection.sendall(b"".join(requests))
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while got := connection.recv(65536):
                answer += got
        assert answer.count(b"HTTP/1.1 200") == len(requests)
    assert sent(server.http_port, request(good_body(known[0]))[:-10], ends=True)[9:12] in (b"", b"400")


def test_requests_in_a_row_without_waiting(server, known):
    one = request(good_body(known[0]))
    with socket.create_connection(("127.0.0.1", server.http_port), 5) as connection:
        connection.sendall(one * 50 + request(good_body(known[0]), Connection="close"))
        answer = b""
        while got := connection.recv(65536):
            answer += got
    assert answer.count(b"HTTP/1.1 200") == 51


def test_clients_that_hang_up(server, known):
    whole = request(good_body(known[0]))
    for count in range(120):
        with socket.create_connection(("127.0.0.1", server.http_port)) as connection:
            if count % 3 == 0:  # a reset instead of a farewell
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(whole[: len(whole) - 5 * (count % 2)])
