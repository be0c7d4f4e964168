"""The queue before an engine: what is joined, what is refused, and that every request gets its own answer."""

import asyncio
import threading
import time

import numpy as np
import pytest

from trtllm_ext.errors import EngineError, InputError, RankError
from trtllm_ext.serve.batcher import Batcher
from trtllm_ext.serve.joining import Extent, Joining
from trtllm_ext.serve.refused import Reason, RefusalError
from trtllm_ext.serve.runner import Runner, TensorSpec

BUDGET_S = 1

JOINING = Joining(inputs={"x": 0}, outputs={"y": 0}, limits=[(Extent(1), Extent(4))])


class Doubler(Runner):
    """y = 2x, one gate opening a run; notes how many rows each run had."""

    def __init__(self, joining=JOINING, beat_s=None):
        spec = TensorSpec(name="x", datatype="FP32", shape=(-1,))
        super().__init__(
            inputs=(spec,),
            outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1,)),),
            joining=joining,
            beat_s=beat_s,
        )
        self.gate, self.has_begun = threading.Event(), threading.Event()
        self.runs, self.beats, self.is_closed = [], 0, False

    def run(self, arrays):
        self.has_begun.set()
        assert self.gate.wait(10)
        self.runs.append(arrays["x"].tolist())
        if -1 in arrays["x"]:
            raise EngineError("/secret/engine failed")
        if -2 in arrays["x"]:
            raise RankError("rank 1 is gone")
        return {"y": 2 * arrays["x"]}

    def beat(self):
        self.beats += 1

    def close(self):
        self.is_closed = True


def x(*values):
    return {"x": np.array(values, np.float32)}


async def ask(batcher, runner, *requests):
    """Outcomes of requests, of which the first runs alone while the others come."""
    first = asyncio.create_task(batcher.submit(requests[0]))
    await asyncio.to_thread(runner.has_begun.wait, 10)
    rest = [asyncio.create_task(batcher.submit(request)) for request in requests[1:]]
    await asyncio.sleep(0)
    runner.gate.set()
    return await asyncio.gather(first, *rest, return_exceptions=True)


def outcomes(runner, *requests, **settings):
    batcher = Batcher(runner, **settings)
    batcher.start()
    try:
        return asyncio.run(ask(batcher, runner, *requests))
    finally:
        runner.gate.set()
        assert batcher.close(10) or settings.get("on_end")


def test_requests_that_have_come_already_run_together_though_the_engine_is_free():
    async def arrive(batcher, number):
        for _ in range(number % 2):  # some take a turn of the loop longer to be read
            await asyncio.sleep(0)
        return await batcher.submit(x(number))

    async def all_at_once(batcher):
        return await asyncio.gather(*(arrive(batcher, number) for number in range(4)))

    runner = Doubler()
    runner.gate.set()
    batcher = Batcher(runner)
    batcher.start()
    answers = asyncio.run(all_at_once(batcher))
    assert batcher.close(10)
    assert [answer["y"].tolist() for answer in answers] == [[0], [2], [4], [6]]
    assert len(runner.runs) == 1 and sorted(runner.runs[0]) == [0, 1, 2, 3]


def test_what_waits_runs_together_up_to_the_limit_and_in_order():
    runner = Doubler()
    answers = outcomes(runner, x(1), x(2, 3), x(4), x(5, 6), x(7))
    assert runner.runs == [[1], [2, 3, 4, 7], [5, 6]]
    assert [answer["y"].tolist() for answer in answers] == [[2], [4, 6], [8], [10, 12], [14]]
    assert runner.is_closed


@pytest.mark.parametrize(("settings", "joining"), [({"max_rows": 1}, JOINING), ({}, None)])
def test_nothing_is_joined_where_that_is_asked_for_or_not_known_to_be_right(settings, joining):
    runner = Doubler(joining)
    outcomes(runner, x(1), x(2), x(3), **settings)
    assert runner.runs == [[1], [2], [3]]


def test_only_the_request_at_fault_gets_the_error_and_no_path(caplog):
    runner = Doubler()
    _, good, bad, other = outcomes(runner, x(1), x(2), x(-1), x(3))
    assert good["y"].tolist() == [4] and other["y"].tolist() == [6]
    assert isinstance(bad, RefusalError) and bad.reason is Reason.ENGINE and "secret" not in str(bad)
    assert "/secret/engine failed" in caplog.text


def test_a_full_queue_refuses():
    runner = Doubler()
    first, second, third = outcomes(runner, x(1), x(2), x(3), max_queue=1)
    assert first["y"].tolist() == [2] and second["y"].tolist() == [4]
    assert third.reason is Reason.QUEUE_FULL and "max_queue_size" in str(third)


def test_a_runner_that_can_run_no_more_leaves_nobody_waiting():
    runner, ended = Doubler(), []
    first, second, third = outcomes(runner, x(1), x(2, -2), x(3, 4, 5), on_end=ended.append)
    assert first["y"].tolist() == [2] and second.reason is third.reason is Reason.STOPPING
    assert isinstance(ended[0], RankError)


def test_a_request_whose_client_is_gone_does_not_run():
    runner = Doubler(None)

    async def leave(batcher):
        first = asyncio.create_task(batcher.submit(x(1)))
        await asyncio.to_thread(runner.has_begun.wait, 10)
        gone = asyncio.create_task(batcher.submit(x(2)))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        runner.gate.set()
        await first

    batcher = Batcher(runner)
    batcher.start()
    asyncio.run(leave(batcher))
    assert batcher.close(10) and runner.runs == [[1]]


def test_the_first_waits_for_others_as_long_as_it_may_and_not_once_it_is_full():
    runner = Doubler()
    runner.gate.set()
    batcher = Batcher(runner, max_delay_s=0.3)
    batcher.start()

    async def two():
        begin = time.monotonic()
        late = asyncio.create_task(batcher.submit(x(1)))
        await asyncio.sleep(0.05)
        await asyncio.gather(late, batcher.submit(x(2)))
        waited = time.monotonic() - begin
        begin = time.monotonic()
        await asyncio.gather(batcher.submit(x(3, 4)), batcher.submit(x(5, 6)))
        return waited, time.monotonic() - begin

    waited, full = asyncio.run(two())
    assert batcher.close(10) and runner.runs == [[1, 2], [3, 4, 5, 6]]
    assert waited >= 0.3 > full


def test_an_idle_runner_beats_and_a_closed_one_refuses():
    runner = Doubler(beat_s=0.01)
    runner.gate.set()
    batcher = Batcher(runner)
    batcher.start()
    time.sleep(0.2)
    assert runner.beats > 2
    assert batcher.close(10)
    with pytest.raises(RefusalError, match="stopping") as refusal:
        asyncio.run(batcher.submit(x(1)))
    assert refusal.value.reason is Reason.STOPPING


def test_what_the_runner_refuses_never_waits():
    class Picky(Doubler):
        def check(self, arrays):
            raise InputError("no")

    with pytest.raises(InputError, match="no"):
        asyncio.run(Batcher(Picky()).submit(x(1)))
