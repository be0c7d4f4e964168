"""Bodies in pieces: joined, counted while they are held, and never more than they may be."""

import asyncio
import zlib

import pytest

from trtllm_ext.serve.held import Held
from trtllm_ext.serve.refused import Reason, RefusalError

http_body = pytest.importorskip("trtllm_ext.serve.http_body", reason="mlserver is not installed")

BUDGET_S = 1


def request(*pieces, **headers):
    messages = [
        {"type": "http.request", "body": piece, "more_body": index + 1 < len(pieces)}
        for index, piece in enumerate(pieces)
    ]

    async def receive():
        if not messages:
            await asyncio.sleep(60)
        return messages.pop(0)

    head = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return http_body.Request({"type": "http", "headers": head}, receive)


def reader_of(max_bytes, timeout_s):
    return http_body.BodyReader(max_bytes, timeout_s, Held(max_bytes))


def read(reader, *pieces, **headers):
    return asyncio.run(reader.read(request(*pieces, **headers)))


def refusal(reader, *pieces, **headers):
    with pytest.raises(RefusalError) as problem:
        read(reader, *pieces, **headers)
    return problem.value.reason


def test_pieces_make_a_body():
    reader = reader_of(10, 5)
    assert read(reader, b"abc") == b"abc"
    assert read(reader, b"abc", b"", b"defghij") == b"abcdefghij"
    assert refusal(reader, b"abc", b"defghijk") is Reason.TOO_LARGE
    assert refusal(reader, b"abcdefghijk", content_length="11") is Reason.TOO_LARGE
    packed = zlib.compress(b"0" * 10)
    assert read(reader_of(20, 5), packed[:3], packed[3:], content_encoding="deflate") == b"0" * 10
    for wrong in (packed[:-2], packed + b"1", packed + packed):
        assert refusal(reader_of(40, 5), wrong, content_encoding="deflate") is Reason.INPUT
    assert refusal(reader_of(20, 5), zlib.compress(b"0" * 21), content_encoding="deflate") is Reason.TOO_LARGE


def test_one_that_does_not_come_is_given_up():
    unfinished = request(b"abc", b"def")
    first, pieces = unfinished._receive, iter([True])
    unfinished._receive = lambda: first() if next(pieces, False) else asyncio.sleep(60)
    with pytest.raises(RefusalError, match=r"did not arrive within 0\.05 s") as problem:
        asyncio.run(reader_of(10, 0.05).read(unfinished))
    assert problem.value.reason is Reason.TOO_SLOW


def test_all_together_hold_eight_times_one():
    held = Held(10)
    reader = http_body.BodyReader(10, 5, held)
    with held.holding(75):
        assert read(reader, b"abcde") == b"abcde"
        assert refusal(reader, b"abcdef") is Reason.QUEUE_FULL
        with (
            pytest.raises(RefusalError, match="have 81 bytes, and this server holds up to 80"),
            held.holding(6),
        ):
            pass
        with held.holding(5):
            pass
    assert read(reader, b"abcdef") == b"abcdef"
