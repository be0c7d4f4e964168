"""Engines loaded, run and closed again and again: memory, files and threads do not grow."""

import gc
import os
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

import trtllm_ext as tx
from trtllm_ext.layers import FeedForward, LayerNorm, Residual

BUDGET_S = 6

HIDDEN, FFN = 64, 256


@pytest.fixture(scope="module")
def engine():
    block = Residual(FeedForward(HIDDEN, FFN, dtype="float32"), norm=LayerNorm(HIDDEN, dtype="float32"))
    rng = np.random.default_rng(0)
    for _, parameter in block.named_parameters():
        parameter.value = rng.normal(scale=0.1, size=parameter.shape).astype(np.float32)
    builder = tx.Builder()
    network = builder.create_network()
    with tx.net_guard(network):
        ranges = OrderedDict(num_tokens=[[1, 16, 512]], hidden=[HIDDEN])
        x = tx.Tensor(name="x", dtype="float32", shape=[-1, HIDDEN], dim_range=ranges)
        block(x).mark_output("y", "float32")
    return bytes(builder.build_engine(network, builder.create_builder_config(precision="float32")))


def held():
    """Resident bytes, open files and threads of this process."""
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    files, threads = (len(list(Path(f"/proc/self/{kind}").iterdir())) for kind in ("fd", "task"))
    return resident, files, threads


def load_and_run(engine, turns, load_mode):
    rng = np.random.default_rng(1)
    for turn in range(turns):
        with tx.Session.from_serialized_engine(engine, load_mode=load_mode) as session:
            for tokens in (1, 1 + turn % 512, 512):
                session.run({"x": rng.random((tokens, HIDDEN), dtype=np.float32)})


def assert_nothing_grows(engine, turns):
    for mode in ("prepack", "mapped"):
        load_and_run(engine, 15, mode)  # caches, arenas and imports settle
    before = held()
    for mode in ("prepack", "mapped"):
        load_and_run(engine, turns, mode)
    after = held()
    assert after[0] - before[0] < 32e6, f"{(after[0] - before[0]) / 1e6:.0f} MB more after {2 * turns} loads"
    assert after[1:] == before[1:], f"files and threads went from {before[1:]} to {after[1:]}"


def test_fifty_loads_leave_nothing_behind(engine):
    assert_nothing_grows(engine, 25)


@pytest.mark.long
def test_ten_thousand_loads_leave_nothing_behind(engine):
    assert_nothing_grows(engine, 5000)


def run_from_threads(engine, runs):
    """Four threads share one session, and one more each: all get the same bits, whatever the turns."""
    shared = tx.Session.from_serialized_engine(engine)
    x = np.random.default_rng(2).random((37, HIDDEN), dtype=np.float32)
    expected = shared.run({"x": x})["y"].copy()
    wrong = []

    def work():
        own = tx.Session.from_serialized_engine(engine)
        for turn in range(runs):
            session = (shared, own)[turn % 2]
            tokens = 37 - turn % 5
            got = session.run({"x": x[:tokens].copy()})["y"]
            if not np.allclose(got, expected[:tokens], rtol=1e-5, atol=1e-6):
                wrong.append((turn, np.abs(got - expected[:tokens]).max()))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_threads_share_a_session(engine):
    run_from_threads(engine, 50)


@pytest.mark.long
def test_threads_share_a_session_for_long(engine):
    run_from_threads(engine, 20_000)
