"""Monitors, watchers and the hub, in plain processes without MPI; the hub is the test's, as a launcher has it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trtllm_ext.errors import RankError
from trtllm_ext.parallel.monitor import HUB_VARIABLE, Monitor
from trtllm_ext.parallel.watch import addresses, processes, watcher, wire
from trtllm_ext.parallel.watch.hub import Hub

BUDGET_S = 6

LIMIT_S = 12
# A rank without MPI: a Monitor, then what the test says.
RANK = """
import sys, time
from trtllm_ext.parallel.monitor import Monitor
rank, timeout, code = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
monitor = Monitor(rank, 2, timeout)
monitor.join(None)
reduction = ("all_reduce", 8, "float32", (0, 1))
print("joined", flush=True)
exec(code)
"""
WAIT = "monitor.operation = reduction; time.sleep(60)"


@pytest.fixture
def hub():
    hub = Hub(2, timeout=1.0)
    yield hub
    hub.stop()


def started(hub, rank, code, timeout=1.0):
    place = {"place": "the launcher", "hosts": ["127.0.0.1"], "port": hub.port, "token": hub.token}
    return subprocess.Popen(
        [sys.executable, "-c", RANK, str(rank), str(timeout), code],
        env={**os.environ, HUB_VARIABLE: json.dumps(place)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ends(*ranks):
    """What each said on stderr; all of them, and whatever they started, must have ended."""
    return [rank.communicate(timeout=LIMIT_S)[1] for rank in ranks]


def test_a_good_end_whose_ranks_do_not_end_together(hub):
    ranks = [
        started(hub, 0, "monitor.close()"),
        started(hub, 1, "time.sleep(2); monitor.close(lambda: None)"),
    ]
    assert ends(*ranks) == ["", ""]
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert hub.verdict is None


def test_a_rank_that_is_killed(hub):
    ranks = [started(hub, 0, WAIT), started(hub, 1, "time.sleep(60)")]
    for rank in ranks:
        assert rank.stdout.readline() == "joined\n"
    ranks[1].kill()
    first, second = ends(*ranks)
    assert first.startswith("trtllm-ext: rank 0 of 2 ends: rank 1 was ended by signal 9 (SIGKILL)")
    assert "rank 1 of 2 ends" in second
    assert [rank.returncode for rank in ranks] == [1, -signal.SIGKILL]


def test_what_a_rank_says_of_its_failure(hub):
    ranks = [started(hub, 0, WAIT), started(hub, 1, "monitor.fail('no room for 5 GB')")]
    first, second = ends(*ranks)
    assert first == "trtllm-ext: rank 0 of 2 ends: rank 1 failed: no room for 5 GB\n"
    assert second == "trtllm-ext: rank 1 of 2 ends: rank 1 failed: no room for 5 GB\n"
    assert [rank.returncode for rank in ranks] == [1, 1]


def test_a_rank_that_holds_the_interpreter_is_ended_from_outside(hub):
    # As MPI does in MPI_Init: no thread of the rank can run.
    held = "import ctypes; monitor.operation = reduction; ctypes.PyDLL(None).sleep(60)"
    ranks = [started(hub, 0, held), started(hub, 1, "time.sleep(60)")]
    first, _ = ends(*ranks)
    assert "rank 1 has not arrived within 1 s at all_reduce of 8 float32 values" in first
    assert ranks[0].returncode == -signal.SIGKILL


def test_a_signal_that_the_hub_hands_on(hub):
    assert not hub.signal(0, signal.SIGTERM), "nobody is connected yet"
    leads = """
import signal
signal.signal(signal.SIGTERM, lambda number, frame: noted.append(number))
noted = []
print("ready", flush=True)
while not noted:
    time.sleep(0.01)
print("finished", flush=True)
monitor.close()
"""
    ranks = [started(hub, 0, leads), started(hub, 1, "monitor.close()")]
    assert [ranks[0].stdout.readline() for _ in range(2)] == ["joined\n", "ready\n"]
    assert hub.signal(0, signal.SIGTERM)
    assert ranks[0].stdout.readline() == "finished\n"
    assert ends(*ranks) == ["", ""]
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert not hub.signal(0, signal.SIGTERM), "all have left"


def test_a_watcher_that_is_killed(hub):
    ranks = [started(hub, 0, WAIT), started(hub, 1, "monitor._watcher.kill(); time.sleep(60)")]
    first, second = ends(*ranks)
    assert "rank 1 of 2 ends: its watcher was killed" in second
    assert "rank 0 of 2 ends: rank 1" in first
    assert [rank.returncode for rank in ranks] == [1, 1]


def test_the_end_of_the_hub_ends_the_ranks(hub):
    ranks = [started(hub, 0, WAIT), started(hub, 1, "time.sleep(60)")]
    for rank in ranks:
        assert rank.stdout.readline() == "joined\n"
    hub.stop()
    for said in ends(*ranks):
        assert "ends: the launcher at 127.0.0.1 is gone: its process was killed" in said


def welcomed(listener, proof):
    """The next connection, with a welcome for rank 0 and `proof(challenge)`, by who knows the token "t" or does not."""
    connection, _ = listener.accept()
    connection.sendall(wire.encode({"challenge": "c"}))
    answer = json.loads(connection.makefile().readline())
    assert (answer["rank"], answer["answer"]) == (0, wire.answer_to("c", "t", "0"))
    connection.sendall(wire.encode({"welcome": 0, "answer": proof(answer["challenge"])}))
    return connection


def test_a_hub_that_falls_silent():
    # As after a cut of the network: a connection that stays open and says nothing.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        silent = type("Silent", (), {"port": listener.getsockname()[1], "token": "t"})
        rank = started(silent, 0, "")
        with welcomed(listener, lambda challenge: wire.answer_to(challenge, "t", wire.HUB)):
            (said,) = ends(rank)
    assert "the launcher at 127.0.0.1 has not been heard of for 5 s" in said


@pytest.mark.parametrize(
    "proof",
    [
        lambda challenge: wire.answer_to(challenge, "another", wire.HUB),
        lambda challenge: wire.answer_to(challenge, "t", "1"),  # of another rank, which was asked the same
        lambda challenge: {"\ud800": None},
    ],
)
def test_who_does_not_know_the_token_is_no_hub(proof):
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as threads:
        stranger = threads.submit(welcomed, listener, proof)
        with pytest.raises(ValueError, match="what answers is not the hub"):
            watcher._introduced("127.0.0.1", listener.getsockname()[1], "t", 0)
        stranger.result().close()


def test_a_rank_that_falls_silent_and_is_ended_for_that(hub):
    # Two namespaces of one machine: the hub sees the end of a process whose watcher it no longer hears.
    with (
        subprocess.Popen(["sleep", "60"]) as process,
        socket.create_connection(("127.0.0.1", hub.port), timeout=LIMIT_S) as stream,
    ):
        challenge = json.loads(stream.makefile().readline())["challenge"]
        stream.sendall(wire.encode({"rank": 1, "answer": wire.answer_to(challenge, hub.token, "1")}))
        state = {"host": "node7", "host_id": processes.host_id(), "pid": process.pid, "kind": "computing"}
        stream.sendall(wire.encode(state))
        time.sleep(3)
        process.kill()
        deadline = time.monotonic() + LIMIT_S
        while hub.verdict is None and time.monotonic() < deadline:
            time.sleep(0.1)
    assert hub.verdict.startswith("rank 1 on node7 has not been heard of for 5 s")


def test_who_does_not_know_the_token_is_not_heard(hub):
    with socket.create_connection(("127.0.0.1", hub.port), timeout=LIMIT_S) as stranger:
        answers = stranger.makefile()
        challenge = json.loads(answers.readline())["challenge"]
        stranger.sendall(wire.encode({"rank": 1, "answer": wire.answer_to(challenge, "another", "1")}))
        stranger.sendall(wire.encode({"failed": "all of it"}))
        assert answers.read() == ""
    assert hub.connected == 0 and hub.verdict is None


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"[]\n",
        b"\xff\n",
        b'{"rank": true}\n',
        b'{"rank": "\\ud800", "challenge": "\\ud800"}\n',
        b"1\n",
        b"[" * 100_000 + b"\n",
        b'{"rank": 1, "answer": "\\u00e4\\ud800"}\n',
    ],
)
def test_strangers_that_speak_something_else(hub, sent):
    with socket.create_connection(("127.0.0.1", hub.port), timeout=LIMIT_S) as stranger:
        stranger.sendall(sent)
        stranger.shutdown(socket.SHUT_WR)
        assert len(stranger.makefile().read().splitlines()) == 1
    assert hub.connected == 0 and hub.verdict is None


def test_only_one_speaks_for_a_rank(hub):
    streams = []
    for number in range(2):
        stream = socket.create_connection(("127.0.0.1", hub.port), timeout=LIMIT_S)
        answers = stream.makefile()
        challenge = json.loads(answers.readline())["challenge"]
        stream.sendall(wire.encode({"rank": 1, "answer": wire.answer_to(challenge, hub.token, "1")}))
        streams.append((stream, answers))
        if number == 0:
            assert json.loads(answers.readline())["welcome"] == 1
    assert answers.read() == ""
    assert hub.connected == 1 and hub.verdict is None
    for stream, answers in streams:
        answers.close()
        stream.close()


def joined(hub, rank):
    """A connection that speaks for a rank, and its lines."""
    stream = socket.create_connection(("127.0.0.1", hub.port), timeout=LIMIT_S)
    answers = stream.makefile()
    challenge = json.loads(answers.readline())["challenge"]
    stream.sendall(wire.encode({"rank": rank, "answer": wire.answer_to(challenge, hub.token, str(rank))}))
    assert json.loads(answers.readline())["welcome"] == rank
    return stream, answers


def test_an_error_of_the_hub_itself_is_told(hub):
    stream, answers = joined(hub, 1)
    with stream, answers:
        stream.sendall(wire.encode({"group": 3}))
        told = [json.loads(line) for line in answers]
    expected = "the watch over the ranks failed: TypeError: 'int' object is not iterable"
    assert hub.verdict == expected
    assert {"verdict": expected} in told
    assert hub.connected == 0


def test_messages_longer_than_there_is_room_for_arrive_whole(hub):
    stream, answers = joined(hub, 0)
    why = "x" * (1 << 23)
    with stream, answers:
        hub.end(why)
        told = [json.loads(answers.readline()) for _ in range(3)]
    assert {"verdict": why} in told


def test_a_hub_variable_of_somebody_else(monkeypatch):
    monkeypatch.setenv(HUB_VARIABLE, "there")
    with pytest.raises(RankError, match="TRTLLM_EXT_HUB is not what"):
        Monitor(0, 2, 1.0)


def test_operations_are_told_once_and_numbered():
    monitor = Monitor(0, 1, 60.0)
    try:
        sent = []
        monitor._send = sent.append
        for _ in range(3):
            monitor.operation = ("all_reduce", 8, "float32", (0, 1))
            assert wire.STATE.unpack(monitor._state[:])[1] == wire.WAITING
            monitor.operation = None
        assert [message["text"] for message in sent] == ["all_reduce of 8 float32 values over ranks 0, 1"]
        assert wire.STATE.unpack(monitor._state[:])[:2] == (3, wire.COMPUTING)
    finally:
        monitor._all_left.set()  # so that the end of the watcher is a good one
        monitor._watcher.stdin.close()
        monitor._watcher.wait()


def test_own_addresses_end_with_loopback():
    found = addresses.own_addresses()
    assert "127.0.0.1" in found
    assert all(
        address.startswith("127.") or address == "::1" for address in found[found.index("127.0.0.1") :]
    )


def test_lines_are_put_together_and_given_back():
    lines = wire.Lines()
    assert lines.feed(b'{"a": 1}\n{"b"') == [{"a": 1}]
    second, third = lines.feed(b': 2}\n{"c": 3}\n{')
    lines.put_back([third])
    assert second == {"b": 2}
    assert lines.feed(b"}\n") == [{"c": 3}, {}]
    with pytest.raises(ValueError, match="without an end"):
        wire.Lines().feed(b"x" * (1 << 21))


def test_nothing_is_left_of_a_watcher_that_was_never_told_anything():
    begin = time.monotonic()
    code = "import sys; sys.path.append(sys.argv[1]); from watch.watcher import main; main()"
    folder = str(Path(wire.__file__).parents[1])
    subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, folder],
        stdin=subprocess.DEVNULL,
        check=True,
        timeout=LIMIT_S,
    )
    assert time.monotonic() - begin < LIMIT_S
