"""All ranks of an engine in one process."""

import threading
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ranked_engines import expected, rank_engine, tokens, write_engine_dir
from small_engines import HIDDEN, build, packed

from trtllm_ext.errors import EngineError, InputError, RankError
from trtllm_ext.graph import functional
from trtllm_ext.runtime.ranks import rehearsal as ranks_rehearsal
from trtllm_ext.runtime.ranks.rehearsal import Rehearsal, check_same_bits

BUDGET_S = 6

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass
class Built:
    """What a rehearsal reads of a `builder.Engine`."""

    rank: int
    engine: Any
    world_size: int

    @property
    def config(self):
        return SimpleNamespace(world_size=self.world_size)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return write_engine_dir(tmp_path_factory.mktemp("two") / "engine", 2)


def check(outputs, x):
    for each in outputs:
        np.testing.assert_allclose(each["y"], expected(x), rtol=1e-5, atol=1e-5)


def test_a_directory(two):
    with Rehearsal(two) as rehearsal:
        assert rehearsal.world_size == len(rehearsal.sessions) == 2
        for count in (1, 4, 16):
            check(rehearsal.run({"x": tokens(count)}, same_bits=True), tokens(count))
    with pytest.raises(EngineError, match="closed"):
        rehearsal.run({"x": tokens(1)})


def test_an_engine_of_one_rank(tmp_path):
    with Rehearsal(write_engine_dir(tmp_path / "one", 1)) as rehearsal:
        check(rehearsal.run({"x": tokens(3)}, same_bits=True), tokens(3))


@pytest.mark.parametrize("size", [2, 16])
def test_from_memory(size):
    engines = [Built(rank, rank_engine(rank, size), size) for rank in reversed(range(size))]
    with Rehearsal(engines) as rehearsal:
        check(rehearsal.run({"x": tokens(3)}, same_bits=True), tokens(3))


def test_serialized_engines_in_the_order_of_ranks():
    """Bytes, and what `Builder.build_engine` returns."""
    engines = [rank_engine(rank, 2) for rank in range(2)]
    with Rehearsal(engines) as rehearsal:
        check(rehearsal.run({"x": tokens(3)}, same_bits=True), tokens(3))
    with Rehearsal((sum_of_two(), sum_of_two())) as rehearsal:
        for each in rehearsal.run({"x": tokens(3)}):
            np.testing.assert_array_equal(each["y"], 2 * tokens(3))


def sum_of_two():
    return build(lambda: functional.allreduce(packed(), [0, 1]).mark_output("y", "float32"))


@pytest.mark.parametrize(
    ("engines", "told"),
    [
        ([], "engines is empty"),
        (b"engine", "engines is of type bytes"),
        (Built(0, b"", 1), "engines is of type Built"),
        ([b"engine", None], r"engines\[1\] is of type NoneType"),
        ([Built(0, b"", 2), b"engine"], r"engines\[0\] is of type Built"),
        (["engine"], r"engines\[0\] is of type str"),
    ],
)
def test_what_is_no_list_of_engines(engines, told):
    with pytest.raises(
        EngineError, match=f"{told}; a rehearsal takes the path of an engine directory, a list"
    ):
        Rehearsal(engines)


def test_what_the_waiting_raise_ends_the_ranks(two, monkeypatch):
    """Rank 0 waits for rank 1, which never comes, until whoever waits for both has enough."""

    def waiting():
        if loaded.is_set():
            raise KeyboardInterrupt

    loaded, ended = threading.Event(), threading.Event()
    monkeypatch.setattr(ranks_rehearsal, "_WAITING_S", 0.02)
    with Rehearsal(two, timeout=60.0, waiting=waiting) as rehearsal:
        loaded.set()
        run = rehearsal.sessions[0].run

        def run_0(*arguments, **settings):
            with pytest.raises(RankError, match="KeyboardInterrupt of whoever waits for the ranks"):
                run(*arguments, **settings)
            ended.set()

        monkeypatch.setattr(rehearsal.sessions[0], "run", run_0)
        monkeypatch.setattr(rehearsal.sessions[1], "run", lambda *arguments, **settings: ended.wait(10.0))
        with pytest.raises(KeyboardInterrupt):
            rehearsal.run({"x": tokens(1)})
        assert ended.wait(5.0)


def test_sixty_four_ranks():
    """One engine serves as all: y = the sum of 64 times x."""

    def define():
        functional.allreduce(packed(), list(range(64))).mark_output("y", "float32")

    engine = bytes(memoryview(build(define)))
    with Rehearsal([Built(rank, engine, 64) for rank in range(64)], timeout=30.0) as rehearsal:
        inputs = [{"x": np.full((2, HIDDEN), rank, np.float32)} for rank in range(64)]
        outputs = rehearsal.run(inputs, check=False)
    for each in outputs:
        np.testing.assert_array_equal(each["y"], np.full((2, HIDDEN), 64 * 63 / 2, np.float32))


def test_goes_on_after_an_input_error(two):
    with Rehearsal(two) as rehearsal:
        with pytest.raises(InputError, match=r"\(2, 8\) on rank 0; shape \(3, 8\) on rank 1"):
            rehearsal.run([{"x": tokens(2)}, {"x": tokens(3)}])
        with pytest.raises(InputError, match="'x' is missing"):
            rehearsal.run([{"x": tokens(2)}, {}])
        others = [{"x": tokens(2, seed)} for seed in (1, 2)]
        with pytest.raises(InputError, match="'x' has other values on rank 1"):
            rehearsal.run(others)
        with pytest.raises(RankError, match="'y' of rank 1 has other bits"):
            rehearsal.run(others, same_bits=True, check=False)
        with pytest.raises(InputError, match="inputs of 3 ranks were given for 2"):
            rehearsal.run([{"x": tokens(2)}] * 3)
        check(rehearsal.run({"x": tokens(2)}), tokens(2))


def test_engines_that_are_no_world():
    engine = rank_engine(0, 2)
    with pytest.raises(EngineError, match="built for 2 ranks, this world has 1"):
        Rehearsal([Built(0, engine, 2)])
    with pytest.raises(EngineError, match=r"of ranks \[0, 0\]"):
        Rehearsal([Built(0, engine, 2), Built(0, engine, 2)])
    with pytest.raises(EngineError, match="rank 1 is the result of a dry run"):
        Rehearsal([Built(0, engine, 2), Built(1, None, 2)])


def test_engines_with_other_collectives():
    def define():
        functional.relu(packed()).mark_output("y", "float32")

    engines = [rank_engine(0, 2), bytes(memoryview(build(define)))]
    with pytest.raises(
        RankError, match=r"1 has other collectives than that of rank 0: 0 and 1; .* none, .* all_"
    ):
        Rehearsal([Built(rank, engine, 2) for rank, engine in enumerate(engines)])


def test_bits_are_compared():
    x = np.array([[0.0, np.nan]], np.float32)
    check_same_bits([{"y": x}, {"y": x.copy()}])
    with pytest.raises(RankError, match="'y' of rank 1 has other bits"):
        check_same_bits([{"y": x}, {"y": np.array([[-0.0, np.nan]], np.float32)}])
