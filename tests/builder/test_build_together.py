"""Ranks built by processes that a launcher started: shared out, heard of by all, and nothing left behind.

Threads stand in for the processes; the last tests start real ones.
"""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from ranked_stacks import damage, engines, names, write_stack

import trtllm_ext as tx
from trtllm_ext.builder import together
from trtllm_ext.errors import BuildError, CheckpointError, ConfigError, RankError
from trtllm_ext.parallel import LocalWorld, run_ranks
from trtllm_ext.parallel.launch import launcher_options

BUDGET_S = 8
LIMITS = tx.BuildConfig(max_num_tokens=32, opt_num_tokens=16)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_stack(tmp_path_factory.mktemp("checkpoints") / "of3", 3)


@pytest.fixture(scope="module")
def alone(checkpoint, tmp_path_factory):
    """The engine directory that a single process builds."""
    path = tmp_path_factory.mktemp("engines") / "engine"
    tx.build_engine_dir(checkpoint, path, LIMITS)
    return path


def build_with(processes, *arguments, **settings):
    """What each of the processes met: None, or its error."""

    def run(end):
        try:
            tx.build_engine_dir(*arguments, communicator=end, **settings)
        except Exception as problem:
            return problem

    return run_ranks(processes, run)


@pytest.mark.parametrize("count", [2, 4])
def test_any_number_of_processes_builds_the_same(checkpoint, alone, tmp_path, count):
    assert build_with(count, checkpoint, tmp_path / "engine", LIMITS) == [None] * count
    assert names(tmp_path) == ["engine"]
    assert names(tmp_path / "engine") == names(alone)
    assert engines(tmp_path / "engine") == engines(alone)
    assert len({tx.Engine.from_dir(tmp_path / "engine", rank).config.build_id for rank in range(3)}) == 1


def test_ranks_are_shared_out_in_turn(checkpoint, tmp_path, monkeypatch):
    def build_rank(job, rank, tell):
        built.append((threading.current_thread().name, rank))
        return real(job, rank, tell)

    built, real = [], together.build_rank
    monkeypatch.setattr(together, "build_rank", build_rank)
    build_with(2, checkpoint, tmp_path / "engine", LIMITS)
    assert sorted(built) == [("rank 0", 0), ("rank 0", 2), ("rank 1", 1)]


def test_process_0_alone_tells_of_its_progress(checkpoint, tmp_path):
    told = []

    def progress(step, done):
        told.append((threading.current_thread().name, step))

    build_with(2, checkpoint, tmp_path / "engine", LIMITS, progress=progress)
    assert {name for name, _ in told} == {"rank 0"}
    assert {step for _, step in told} >= {"rank 0: building", "rank 2: building", "trying all ranks together"}


@pytest.mark.parametrize("rank", [1, 2])
def test_what_one_meets_all_raise(tmp_path, rank):
    damage(write_stack(tmp_path / "c", 3), rank)
    problems = build_with(2, tmp_path / "c", tmp_path / "engine", LIMITS)
    assert {type(problem) for problem in problems} == {CheckpointError}
    [said] = {str(problem) for problem in problems}
    assert said.startswith(f"rank {rank}: ")
    assert "is damaged" in said
    assert names(tmp_path) == ["c"]


def test_nothing_is_left_when_the_others_raise(tmp_path, monkeypatch):
    """A process that has failed may end at once, which makes a launcher end the others."""

    def run(end):
        try:
            tx.build_engine_dir(tmp_path / "c", tmp_path / "engine", LIMITS, communicator=end)
        except CheckpointError:
            return names(tmp_path)

    def remove(path, **settings):
        time.sleep(0.3)
        rmtree(path, **settings)

    from trtllm_ext.runtime import atomic

    rmtree = atomic.shutil.rmtree
    monkeypatch.setattr(atomic.shutil, "rmtree", remove)
    damage(write_stack(tmp_path / "c", 2), 1)
    assert run_ranks(2, run) == [["c"]] * 2


def test_what_keeps_process_0_from_beginning(checkpoint, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    problems = build_with(2, checkpoint, tmp_path, LIMITS)
    assert [type(each) for each in problems] == [BuildError] * 2
    assert all(
        "holds files that are no part of an earlier engine: notes.txt" in str(each) for each in problems
    )
    assert names(tmp_path) == ["notes.txt"]


def test_what_keeps_process_0_from_finishing(checkpoint, tmp_path, monkeypatch):
    from trtllm_ext.builder import finishing

    def fail(*arguments):
        raise KeyError("unheard of")

    monkeypatch.setattr(finishing, "write_known_answer", fail)
    problems = build_with(2, checkpoint, tmp_path / "engine", LIMITS)
    assert [str(each) for each in problems] == ["rank 0: KeyError: 'unheard of' (not expected)."] * 2
    assert names(tmp_path) == []


@pytest.mark.parametrize("slow", ["load", "run"])
def test_the_others_wait_on_while_all_ranks_are_tried(checkpoint, tmp_path, monkeypatch, slow):
    """However long it takes: their patience begins anew each second, here each 20 ms."""
    from trtllm_ext.runtime.ranks import rehearsal

    def run(end):
        def busy(what):
            told.append((end.rank, what))
            return real(what)

        real = end.busy
        monkeypatch.setattr(end, "busy", busy)
        tx.build_engine_dir(checkpoint, tmp_path / "engine", LIMITS, communicator=end)

    def slowly(*arguments, **settings):
        time.sleep(0.4)
        return at_once(*arguments, **settings)

    told, name = [], {"load": "from_engine_dir", "run": "run"}[slow]
    at_once = getattr(rehearsal.Session, name)
    monkeypatch.setattr(rehearsal.Session, name, slowly)
    monkeypatch.setattr(rehearsal, "_WAITING_S", 0.02, raising=False)
    monkeypatch.setattr(together, "_RENEW_S", 0.01)
    run_ranks(2, run)
    assert told.count((0, "trying all ranks together")) >= 5


@pytest.mark.parametrize("step", ["rank 0: building", "trying all ranks together"])
def test_an_interrupt_ends_all(checkpoint, tmp_path, step):
    def progress(told, done):
        if told == step:
            raise KeyboardInterrupt

    def run(end):
        with pytest.raises(KeyboardInterrupt):
            tx.build_engine_dir(checkpoint, tmp_path / "engine", LIMITS, communicator=end, progress=progress)
        return names(tmp_path)

    assert run_ranks(2, run) == [[], []]


def test_the_lock_of_a_directory_holds(checkpoint, tmp_path):
    """Another build into the same directory meets the lock that process 0 holds, and the first goes on."""
    met = []

    def progress(step, done):
        if step == "rank 2: building" and not met:
            met.append(None)
            with pytest.raises(BuildError, match=r"another process .* is writing the engine"):
                tx.build_engine_dir(checkpoint, tmp_path / "engine", LIMITS)

    assert build_with(2, checkpoint, tmp_path / "engine", LIMITS, progress=progress) == [None, None]
    assert met
    assert names(tmp_path) == ["engine"]


def test_a_file_system_of_its_own(checkpoint, tmp_path, monkeypatch):
    def wait_for(staging, rank):
        real(staging / "elsewhere" if rank else staging, rank)

    real = together._wait_for
    monkeypatch.setattr(together, "_wait_for", wait_for)
    monkeypatch.setattr(together, "_VISIBLE_S", 0.1)
    problems = build_with(2, checkpoint, tmp_path / "engine", LIMITS)
    assert all("process 1 does not see " in str(each) for each in problems)
    assert names(tmp_path) == []


def test_other_checkpoints_on_other_hosts(checkpoint, tmp_path):
    other = write_stack(tmp_path / "of1", 1)

    def run(end):
        with pytest.raises(BuildError) as caught:
            tx.build_engine_dir((checkpoint, other)[end.rank], tmp_path / "engine", LIMITS, communicator=end)
        return str(caught.value)

    [said] = set(run_ranks(2, run))
    assert said.startswith("process 1 sees a checkpoint of 1 rank(s), process 0 one of 3.")
    assert names(tmp_path) == ["of1"]


def test_a_process_that_is_gone(checkpoint, tmp_path):
    def run(end):
        if end.rank:
            end.fail("killed")
            return
        with pytest.raises(RankError, match="rank 1 failed: killed"):
            tx.build_engine_dir(checkpoint, tmp_path / "engine", LIMITS, communicator=end)

    run_ranks(2, run)
    assert names(tmp_path) == []


def test_workers_are_for_one_process(checkpoint, tmp_path):
    end = LocalWorld(2).communicators[0]
    with pytest.raises(ConfigError, match="workers=2 is refused where several processes"):
        tx.build_engine_dir(checkpoint, tmp_path / "engine", LIMITS, communicator=end, workers=2)


def test_a_world_of_one_builds_alone(checkpoint, tmp_path):
    [end] = LocalWorld(1).communicators
    tx.build_engine_dir(checkpoint, tmp_path / "engine", LIMITS, communicator=end)
    assert "self_test.npz" in names(tmp_path / "engine")


# --- real processes -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def processes(mpi_launcher):
    """The command that starts two processes which build."""
    script = Path(__file__).with_name("build_under_launcher.py")
    return [*mpi_launcher, *launcher_options(mpi_launcher), "-n", "2", sys.executable, script]


def ended(command):
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_two_processes_build_three_ranks_and_fail_together(processes, checkpoint, alone, tmp_path):
    bad = write_stack(tmp_path / "bad", 2)
    damage(bad, 1)
    done = ended([*processes, checkpoint, tmp_path / "engine", bad, tmp_path / "none"])
    assert done.stdout.splitlines()[-1] == "codes [0, 1]", done.stderr
    assert engines(tmp_path / "engine") == engines(alone)
    assert names(tmp_path) == ["bad", "engine"]
    assert f"{tmp_path / 'engine'}: embedded engine for cpu, 3 ranks, " in done.stdout
    assert done.stdout.count("  in   hidden_states") == 1
    assert done.stderr.count("build: rank 0: building\n") == 2
    assert "build: rank 2: building" in done.stderr
    assert "build: rank 1" not in done.stderr  # process 1's, and process 0 alone prints
    said = [line for line in done.stderr.splitlines() if not line.startswith("build: ")]
    assert len(said) == 1
    assert said[0].startswith("trtllm-ext: error: rank 1: ")
    assert "is damaged" in said[0]


@pytest.mark.long
def test_what_a_killed_process_0_leaves_is_removed_by_the_next_build(processes, checkpoint, tmp_path):
    done = ended([*processes, "--killed", checkpoint, tmp_path / "engine"])
    assert done.returncode != 0
    assert any(name.startswith(".engine.writing-") for name in names(tmp_path))
    tx.build_engine_dir(checkpoint, tmp_path / "engine", LIMITS)
    assert names(tmp_path) == ["engine"]
