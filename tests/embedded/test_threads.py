"""Threads: how many, whose, and what an engine leaves to the rest of the process."""

import functools
import os
import subprocess
import sys

import pytest

from trtllm_ext.embedded.running import threads
from trtllm_ext.errors import ConfigError

BUDGET_S = 15

# Loads as many engines as asked, each of one layer; tells how many threads the first adds, and how many all do.
PROGRAM = """
import sys
import time
from collections import OrderedDict
from pathlib import Path
import numpy as np
import onnx
import onnxruntime
import trtllm_ext as tx
from trtllm_ext.layers import FeedForward

def foreign_session():
    value = [onnx.helper.make_tensor_value_info(name, 1, [2]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString())

def engine_bytes():
    layer = FeedForward(8, 16, dtype="float32")
    for _, parameter in layer.named_parameters():
        parameter.value = np.ones(parameter.shape, np.float32)
    builder = tx.Builder()
    network = builder.create_network()
    with tx.net_guard(network):
        x = tx.Tensor(name="x", dtype="float32", shape=[-1, 8], dim_range=OrderedDict(t=[[1, 2, 4]], h=[8]))
        layer(x).mark_output("y", "float32")
    return bytes(builder.build_engine(network, builder.create_builder_config(precision="float32")))

def threads_now():
    # A thread that was joined may still be listed for a moment.
    counts = []
    for _ in range(20):
        counts.append(len(list(Path("/proc/self/task").iterdir())))
        time.sleep(0.01)
    return min(counts)

kept = [foreign_session()] if "first" in sys.argv else []
before = threads_now()
data = engine_bytes()
count = int(sys.argv[1])
for number in range(1, count + 1):
    kept.append(tx.Session.from_serialized_engine(data))
    kept[-1].run({"x": np.ones((2, 8), np.float32)})
    if number in (1, count):
        print(threads_now() - before)
if "after" in sys.argv:
    foreign_session().run(None, {"x": np.ones(2, np.float32)})
"""


@functools.cache
def threads_of(engines, *options, **environment):
    """How many threads the first engine of a new process adds, and how many all of them."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(engines), *options],
        env={**os.environ, "TRTLLM_EXT_NUM_THREADS": "3", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    told = [int(line) for line in run.stdout.split()]
    return told[0], told[-1]


@pytest.mark.parametrize("order", [("first", "after"), ("after",)])
def test_other_users_of_onnxruntime_in_the_process_are_left_alone(order):
    threads_of(4, *order)


def test_a_process_pool_has_as_many_threads_for_many_engines_as_for_one():
    of_one, of_all = threads_of(4, TRTLLM_EXT_THREAD_POOL="process")
    assert of_all == of_one > 0


def test_each_engine_has_its_own_pool_by_default():
    # The calling thread works too, so a pool of three threads adds two.
    assert threads_of(4, "after")[1] >= 4 * 2


def test_a_process_pool_joins_one_that_is_there_already():
    _, pool = threads_of(4, TRTLLM_EXT_THREAD_POOL="process")
    assert threads_of(2, "first", TRTLLM_EXT_THREAD_POOL="process")[1] == pool < 2 * 3


def test_the_process_pool_is_for_those_who_ask_for_it(monkeypatch):
    monkeypatch.delenv(threads.POOL_VARIABLE, raising=False)
    assert not threads.shares_process_pool()
    monkeypatch.setenv(threads.POOL_VARIABLE, "process")
    assert threads.shares_process_pool()


def test_an_engine_of_many_sessions_does_not_have_threads_without_end(monkeypatch):
    monkeypatch.setenv(threads.THREADS_VARIABLE, "16")
    assert [threads.threads_of_session(count) for count in (1, 2, 32, 100, 1000)] == [16, 16, 16, 5, 1]


@pytest.mark.parametrize(("asked", "waits_awake"), [(None, True), ("1", True), ("0", False)])
def test_threads_wait_awake_unless_told_otherwise(monkeypatch, asked, waits_awake):
    """What ONNX Runtime is told for an engine."""
    import onnxruntime

    import trtllm_ext as tx

    monkeypatch.delenv(threads.SPINNING_VARIABLE, raising=False)
    if asked is not None:
        monkeypatch.setenv(threads.SPINNING_VARIABLE, asked)
    told = []
    real = onnxruntime.SessionOptions.add_session_config_entry
    monkeypatch.setattr(
        onnxruntime.SessionOptions,
        "add_session_config_entry",
        lambda options, key, value: (told.append((key, value)), real(options, key, value))[1],
    )
    builder = tx.Builder()
    network = builder.create_network()
    with tx.net_guard(network):
        x = tx.Tensor(name="x", dtype="float32", shape=[2, 8])
        (x + x).mark_output("y", "float32")
    config = builder.create_builder_config(precision="float32")
    tx.Session.from_serialized_engine(builder.build_engine(network, config)).close()
    assert (("session.intra_op.allow_spinning", "0") not in told) is waits_awake


def test_an_unknown_pool_is_refused(monkeypatch):
    monkeypatch.setenv(threads.POOL_VARIABLE, "global")
    with pytest.raises(ConfigError, match="TRTLLM_EXT_THREAD_POOL='global' is not known; it is 'engine'"):
        threads.shares_process_pool()
    monkeypatch.setenv(threads.SPINNING_VARIABLE, "yes")
    with pytest.raises(ConfigError, match="TRTLLM_EXT_SPINNING='yes' is not known; it is 1"):
        threads.spins()


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "99999"])
def test_a_number_of_threads_that_is_none_is_refused(monkeypatch, value):
    monkeypatch.setenv(threads.THREADS_VARIABLE, value)
    with pytest.raises(ConfigError, match=r"is not a number of threads\. Set it to 1 .. 1024, or unset it"):
        threads.num_threads()


@pytest.mark.parametrize(
    "ranks, cores, bound_to, quota, expected",
    [
        (1, 8, 8, 8, 8),
        (2, 8, 8, 8, 4),
        (3, 8, 8, 8, 2),
        (2, 2, 2, 2, 1),
        (9, 8, 8, 8, 1),
        # Bound by the launcher to its share, to less, and to more than that.
        (2, 8, 4, 8, 4),
        (2, 8, 1, 8, 1),
        (4, 8, 4, 8, 2),
        # A container of four cores on a host of 64: its ranks share what it has.
        (1, 64, 64, 4, 4),
        (2, 64, 64, 4, 2),
    ],
)
def test_ranks_of_one_host_share_its_cores(monkeypatch, ranks, cores, bound_to, quota, expected):
    monkeypatch.delenv(threads.THREADS_VARIABLE, raising=False)
    monkeypatch.setattr(threads, "ranks_on_host", lambda environment: ranks)
    monkeypatch.setattr(threads, "_quota", lambda: quota)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(bound_to)))
    assert threads.num_threads() == expected
    monkeypatch.setenv(threads.THREADS_VARIABLE, "7")
    assert threads.num_threads() == 7


def test_a_launched_process_knows_its_share(monkeypatch):
    monkeypatch.delenv(threads.THREADS_VARIABLE, raising=False)
    monkeypatch.delenv("TRTLLM_EXT_RANK_PROCESS", raising=False)
    for name, value in {"PMI_RANK": "0", "PMI_SIZE": "4096", "MPI_LOCALNRANKS": "4096"}.items():
        monkeypatch.setenv(name, value)
    assert threads.num_threads() == 1
