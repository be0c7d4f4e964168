"""One rank hears what is to be run, the others follow: however long nothing comes, whatever is refused or fails."""

import os
import signal
import threading
import time

import numpy as np
import pytest
from ranked_engines import expected, rank_engine, tokens
from small_engines import HIDDEN

import trtllm_ext as tx
from trtllm_ext.errors import EngineError, InputError, RankError
from trtllm_ext.parallel import LocalWorld, run_ranks
from trtllm_ext.runtime.ranks.following import LeadingSession, lead

BUDGET_S = 5

# Of tests about waiting; the others are not about how fast a busy machine is.
TIMEOUT_S = 1.0
PATIENT_S = 30.0

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def engines():
    return [rank_engine(rank, 2) for rank in range(2)]


def session_of(engines, end):
    return tx.Session.from_serialized_engine(engines[end.rank], communicator=end)


def led(engines, work, timeout=PATIENT_S):
    """What `work(leading session)` gives on rank 0, with a session on each rank of this process."""

    def rank(end):
        with session_of(engines, end) as session:
            return lead(session, end, work)

    results = run_ranks(2, rank, timeout)
    assert results[1] is None
    return results[0]


def check_runs(session, count=4, seed=2):
    x = tokens(count, seed)
    np.testing.assert_allclose(session.run({"x": x})["y"], expected(x), rtol=1e-5, atol=1e-5)


def test_all_ranks_run_what_one_is_asked_for(engines):
    def work(session):
        assert [info.name for info in session.inputs + session.outputs] == ["x", "y"]
        assert session.profiles("x")[0][2] == (16, HIDDEN)
        for count in (1, 7, 16, 1):
            check_runs(session, count, seed=count)
        read_only = tokens(3)
        read_only.flags.writeable = False
        session.run({"x": read_only})
        return "done"

    assert led(engines, work) == "done"


def test_nothing_to_do_for_many_timeouts(engines):
    def work(session):
        time.sleep(2.5 * TIMEOUT_S)
        check_runs(session)

    led(engines, work, TIMEOUT_S)


def test_callers_in_several_threads(engines):
    def work(session):
        problems = []

        def call(seed):
            try:
                for count in range(1, 9):
                    check_runs(session, count, seed)
            except Exception as problem:
                problems.append(problem)

        threads = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []

    led(engines, work)


@pytest.mark.parametrize(
    "wrong, text",
    [
        ({"x": tokens(17)}, "17"),
        ({"x": tokens(2).astype(np.float64)}, "float64"),
        ({}, "'x'"),
        ({"x": tokens(2), "z": tokens(2)}, "'z'"),
        ({"x": [1.0, 2.0]}, "input 'x' is list; "),
        ({"x": np.array([object()])}, "input 'x' is an array of object; "),
    ],
    ids=["too long", "type", "missing", "unknown", "no array", "objects"],
)
def test_what_is_refused_is_an_error_and_no_end(engines, wrong, text):
    def work(session):
        with pytest.raises(InputError) as caught:
            session.run(wrong)
        check_runs(session)
        return str(caught.value)

    assert text in led(engines, work)


def test_work_that_fails_ends_all_ranks_with_its_sentence(engines):
    told = []

    def work(session):
        check_runs(session)
        raise EngineError("port 8000 is taken.")

    def rank(end):
        with session_of(engines, end) as session:
            try:
                lead(session, end, work)
            except RankError as problem:
                told.append(str(problem))

    run_ranks(2, rank, PATIENT_S)
    assert told == ["rank 0: port 8000 is taken."] * 2


def test_a_run_that_does_not_end_is_not_waited_for_by_an_error(engines, monkeypatch):
    """All ranks end with the error: those that wait in the run cannot be called out of it."""
    stuck, go_on = threading.Event(), threading.Event()

    def hangs(inputs):
        stuck.set()
        go_on.wait(10)

    def work(session):
        monkeypatch.setattr(session._session, "run", hangs)
        threading.Thread(target=session.run, args=({"x": tokens(1)},), daemon=True).start()
        stuck.wait(5)
        raise EngineError("not answered in time.")

    with pytest.raises(
        RankError, match="rank 0 failed: while it ran what it had begun: not answered in time"
    ):
        led(engines, work, 2 * TIMEOUT_S)
    go_on.set()


def test_a_follower_that_fails_in_a_run(engines, monkeypatch):
    """The run that it fails in is an error, and so is each later one; nobody waits for ever."""
    errors = []

    def work(session):
        check_runs(session)
        for _ in range(2):
            with pytest.raises(RankError) as caught:
                session.run({"x": tokens(2)})
            errors.append(str(caught.value))

    def rank(end):
        with session_of(engines, end) as session:
            if end.rank == 1:
                run = session.run

                def fails(inputs):
                    if len(inputs["x"]) == 2:
                        raise SystemExit("gone")
                    return run(inputs)

                session.run = fails
            lead(session, end, work)

    with pytest.raises(SystemExit, match="gone"):
        run_ranks(2, rank, PATIENT_S)
    assert all("rank 1 failed: SystemExit: gone" in error for error in errors)
    assert len(errors) == 2


def test_a_leader_that_is_gone_leaves_no_follower_waiting(engines):
    def work(session):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        led(engines, work)


def test_a_leader_without_signs_is_noticed(engines, monkeypatch):
    monkeypatch.setattr(LeadingSession, "_beat", lambda self: threading.Event().wait(3))

    with pytest.raises(
        RankError, match=rf"rank 0 did not come to what the leading rank hands on.* {TIMEOUT_S:g} s"
    ):
        led(engines, lambda session: time.sleep(3 * TIMEOUT_S), TIMEOUT_S)


def test_a_session_whose_work_has_ended_runs_no_more(engines):
    kept = led(engines, lambda session: session)
    with pytest.raises(EngineError, match="leads no ranks now"):
        kept.run({"x": tokens(1)})


def test_followers_do_not_lead(engines):
    def rank(end):
        with session_of(engines, end) as session:
            if end.rank == 1:
                with pytest.raises(RankError, match="rank 0 leads; this is rank 1"):
                    LeadingSession(session, end)

    run_ranks(2, rank, PATIENT_S)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_a_follower_is_the_leader_s_to_answer(engines, number):
    """Idle or not; what the leader has begun is finished, and both leave in good order."""
    world = LocalWorld(2, timeout=2.0)
    before = signal.getsignal(number)
    heard, ready = threading.Event(), threading.Event()
    numbers, results = [], []

    def note(value):
        numbers.append(value)
        heard.set()

    def work(session):
        ready.set()
        while not heard.is_set():
            check_runs(session)
        check_runs(session)
        return "finished"

    def leader():
        end = world.communicators[0]
        with session_of(engines, end) as session:
            results.append(lead(session, end, work, note))

    def send():
        ready.wait(5)
        while signal.getsignal(number) is before:  # it would end this process
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threads = [threading.Thread(target=each, daemon=True) for each in (leader, send)]
    for thread in threads:
        thread.start()
    with session_of(engines, world.communicators[1]) as session:  # the main thread, as in a process
        assert lead(session, world.communicators[1], lambda _: None) is None
    for thread in threads:
        thread.join()
    assert (numbers, results) == ([number], ["finished"])
    assert signal.getsignal(number) is before
