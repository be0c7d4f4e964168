"""Ranks built by several processes of this machine: the same bytes, the same errors, and nobody left behind."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from ranked_stacks import damage, engines, names, write_stack

import trtllm_ext as tx
from trtllm_ext.builder import workers
from trtllm_ext.errors import BuildError, CheckpointError, ConfigError

BUDGET_S = 8
LIMITS = tx.BuildConfig(max_num_tokens=32, opt_num_tokens=16)

pytestmark = pytest.mark.usefixtures("one_thread", "small_program")


@pytest.fixture
def small_program(monkeypatch):
    """Workers import the program that starts them, too: pytest, half a second for nothing."""
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_stack(tmp_path_factory.mktemp("checkpoints") / "of3", 3)


def children():
    """Processes that multiprocessing has started for this one; not its tracker of resources, which stays."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
            command = (status.parent / "cmdline").read_text()
        except OSError:
            continue
        if f"PPid:\t{os.getpid()}\n" in text and "spawn_main" in command:
            found.append(command)
    return found


def test_the_same_bytes_as_one_after_the_other(checkpoint, tmp_path):
    steps = []
    tx.build_engine_dir(
        checkpoint,
        tmp_path / "two",
        LIMITS,
        workers=2,
        progress=lambda step, done: steps.append((step, done)),
    )
    tx.build_engine_dir(checkpoint, tmp_path / "one", LIMITS)
    assert names(tmp_path / "two") == names(tmp_path / "one")
    assert engines(tmp_path / "two") == engines(tmp_path / "one")
    build_ids = [tx.Engine.from_dir(tmp_path / each).config.build_id for each in ("two", "one")]
    for name in ("config.json", *(f"rank{rank}.envelope.json" for rank in range(3))):
        # A build_id, and digests of what holds it, are all that differs.
        two, one = (
            re.sub(
                f'("(config_)?sha256": ")[0-9a-f]+|{build_id}', r"\1", (tmp_path / each / name).read_text()
            )
            for each, build_id in zip(("two", "one"), build_ids, strict=True)
        )
        assert two == one
    for rank in range(3):
        told = [step for step, _ in steps if step.startswith(f"rank {rank}: ")]
        assert list(dict.fromkeys(told)) == [
            f"rank {rank}: {what}"
            for what in (
                "reading the checkpoint",
                "defining the network",
                "building",
                "building, Preparing segments",
            )
        ]
        assert max(done for step, done in steps if step == f"rank {rank}: building") > 0
    assert children() == []


def test_an_error_is_the_same_sentence_and_nothing_is_left(tmp_path):
    damage(write_stack(tmp_path / "c", 2), 1)
    said = []
    for count in (1, 2):
        with pytest.raises(CheckpointError, match=r"^rank 1: .* is damaged") as caught:
            tx.build_engine_dir(tmp_path / "c", tmp_path / "engine", LIMITS, workers=count)
        said.append(str(caught.value))
        assert names(tmp_path) == ["c"]
    assert said[0] == said[1]
    assert children() == []


def test_a_process_that_dies_is_named(checkpoint, tmp_path, monkeypatch):
    def give_and_kill(worker, rank):
        give(worker, rank)
        if rank == 1:
            worker._process.kill()

    give = workers._Worker.give
    monkeypatch.setattr(workers._Worker, "give", give_and_kill)
    with pytest.raises(BuildError) as caught:
        tx.build_engine_dir(checkpoint, tmp_path / "engine", LIMITS, workers=2)
    assert str(caught.value) == (
        "rank 1: the process that builds it was ended from outside (SIGKILL), as happens when the machine is out of "
        "memory. Use fewer workers, or a larger machine."
    )
    assert names(tmp_path) == []
    assert children() == []


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (-signal.SIGSEGV, r"was ended from outside \(SIGSEGV\)\. Build again"),
        (1, r"ended by itself \(exit code 1\).* below `if __name__ == '__main__':`"),
    ],
)
def test_how_a_process_has_ended(code, said):
    assert re.match(said, workers._ending(code))


@pytest.mark.long
def test_ctrl_c_on_the_command_line(checkpoint, tmp_path):
    """A terminal sends the interrupt to all processes of the group."""
    command = [sys.executable, "-m", "trtllm_ext.cli.main", "build", "--checkpoint_dir", str(checkpoint)]
    builder = subprocess.Popen(
        [*command, "--output_dir", str(tmp_path / "engine"), "--workers", "2", "--max_num_tokens", "8"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert builder.stderr.readline().startswith("build: rank ")
    os.killpg(builder.pid, signal.SIGINT)
    out, told = builder.communicate(timeout=20)
    assert builder.returncode == 130
    assert out == ""
    assert [line for line in told.splitlines() if not line.startswith("build: ")] == [
        "trtllm-ext: interrupted"
    ]
    assert names(tmp_path) == []
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.killpg(builder.pid, 0)
            time.sleep(0.05)


@pytest.mark.parametrize("count", [0, -1, True, 1.5])
def test_a_number_of_workers_that_is_none(checkpoint, tmp_path, count):
    with pytest.raises(ConfigError, match="is not a number of processes; give 1 or more"):
        tx.build_engine_dir(checkpoint, tmp_path / "engine", LIMITS, workers=count)


def test_threads_are_shared_out(monkeypatch):
    class Worker:
        def __init__(self, job, threads):
            raise InterruptedError(threads)

    class Job:
        world_size = 3

    monkeypatch.setattr(workers, "_Worker", Worker)
    for threads, count, expected in (("8", 2, 4), ("8", 9, 2), ("2", 3, 1)):
        monkeypatch.setenv("TRTLLM_EXT_NUM_THREADS", threads)
        with pytest.raises(InterruptedError) as caught:
            workers.build_in_workers(Job(), count, lambda step, done: None)
        assert caught.value.args == (expected,)
