"""Connections of HTTP clients: one that sends nothing of use ends, and one that asks ahead gets all its answers."""

import asyncio
import socket
import time

import pytest

from trtllm_ext.serve.ports import listening_socket

http_listener = pytest.importorskip("trtllm_ext.serve.http_listener", reason="mlserver is not installed")

BUDGET_S = 1

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def hello(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"hi"})


async def endless(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(1000):
        await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})


def test_a_client_that_does_not_read_can_be_cut_off():
    async def serve():
        bound = listening_socket("127.0.0.1", 0, "--http_port")
        listener = http_listener.HttpListener(endless, bound, 5.0)
        serving = asyncio.create_task(listener.run_until_left())
        await listener.listens.wait()
        _, writer = await asyncio.open_connection(*bound.getsockname(), limit=1024)
        writer.write(GET)
        await asyncio.sleep(0.1)
        listener.should_exit = True
        done, _ = await asyncio.wait([serving], timeout=0.5)
        assert not done, "uvicorn waits for it"
        listener.cut()
        await asyncio.wait_for(serving, 3)
        writer.close()

    asyncio.run(serve())


def test_requests_in_a_row_that_are_cut_off_end_without_an_error():
    uvloop = pytest.importorskip("uvloop", reason="mlserver is not installed")
    ends, gone = [], asyncio.Event()

    async def late(scope, receive, send):
        await gone.wait()
        try:
            await receive()
            await hello(scope, receive, send)
            ends.append(None)
        except Exception as problem:
            ends.append(problem)

    async def serve():
        bound = listening_socket("127.0.0.1", 0, "--http_port")
        listener = http_listener.HttpListener(late, bound, 5.0)
        serving = asyncio.create_task(listener.run_until_left())
        await listener.listens.wait()
        with socket.create_connection(bound.getsockname()) as client:
            client.sendall(GET * 2)
            await asyncio.sleep(0.05)
            listener.cut()
            await asyncio.sleep(0.05)
            gone.set()
            await listener.leave()
        await serving

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
    assert ends == [None], "the first has begun; the second need not"


def answers(*pieces):
    """What a listener answers to these pieces, a twentieth of a second apart, until it closes; and how long it took."""

    async def ask():
        bound = listening_socket("127.0.0.1", 0, "--http_port")
        listener = http_listener.HttpListener(hello, bound, 5.0)
        serving = asyncio.create_task(listener.run_until_left())
        await listener.listens.wait()
        reader, writer = await asyncio.open_connection(*bound.getsockname())
        begin = time.monotonic()
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.05)
        try:
            answer = await asyncio.wait_for(reader.read(), 10)
        finally:
            writer.close()
            await listener.leave()
            await serving
        return answer, time.monotonic() - begin

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("pieces", "count"),
    [
        ([b"\r\n"], 0),
        ([GET], 1),
        ([b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n", b"x"], 1),
    ],
    ids=["an empty line", "nothing more", "a body that was answered before it came"],
)
def test_a_connection_on_which_nothing_more_comes_is_closed(monkeypatch, pieces, count):
    monkeypatch.setattr(http_listener, "_KEEP_ALIVE_S", 0.3)
    answer, took = answers(*pieces)
    assert answer.count(b"HTTP/1.1 200 OK") == count and answer.count(b"HTTP") == count
    assert took >= 0.3


def test_only_a_head_counts_as_one(monkeypatch):
    monkeypatch.setattr(http_listener, "_KEEP_ALIVE_S", 0.3)
    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n" + b"x" * 60000
    answer, _ = answers(post + post + GET[:9], GET[9:])
    assert answer.count(b"HTTP/1.1 200 OK") == 3, "bodies before a head that has begun are none of it"
    answer, _ = answers(post + GET[:-2] + b"A: ", *[b"a" * 30000] * 3)
    assert answer.count(b"HTTP/1.1 200 OK") == 1 and b"HTTP/1.1 431" in answer
