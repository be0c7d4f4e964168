"""A service over ranks that are processes, as the page has it: it waits, runs, and ends, whoever is ended first."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ranked_services import service_engine

from trtllm_ext.parallel.launch import launcher_options

BUDGET_S = 3  # a launch of two ranks, with the imports of each, takes one and a half

LIMIT_S = 15
TIMEOUT_S = 2.0
PAGE = (Path(__file__).parent.parent / "docs" / "tensor_parallel.md").read_text()
SECTION = PAGE.split("## A service of your own\n")[1].split("\n## ")[0]
(PROGRAM,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
# Waits for longer than ranks wait for each other, and tells how much of a processor the rank that follows has used.
PATIENT = """
import resource, sys, time
from trtllm_ext.parallel import launched_rank

def told():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime

once = service
def service(session):
    once(session)
    time.sleep({seconds})
    once(session)
    return 7

with tx.Session.from_engine_dir("engine") as session:
    begin, used = time.monotonic(), told()
    got = tx.runtime.lead(session, world(), service)
    part = (told() - used) / (time.monotonic() - begin)
    sys.stdout.write(f"{{launched_rank()}} {{got}} {{part < 0.25}}\\n")  # at once: the other rank writes, too
    sys.stdout.flush()
"""
# Serves until a signal comes to any rank, which is told to rank 0; the run after it is still one of all ranks.
SERVING = """
import os, signal, threading
from trtllm_ext.parallel import launched_rank
ended = threading.Event()
once = service

def service(session):
    once(session)
    print("serving", flush=True)
    ended.wait(60)
    once(session)
    print("ended", flush=True)

def end(number, frame=None):
    ended.set()

with tx.Session.from_engine_dir("engine") as session:
    if launched_rank() == 0:
        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, end)
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open(f"pid{launched_rank()}", "w") as file:
        file.write(str(os.getpid()))
    tx.runtime.lead(session, world(), service, end)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(tmp_path)
    service_engine(tmp_path)
    return tmp_path


def started(launcher, folder, program):
    head = PROGRAM.partition("\nwith ")[0]
    (folder / "program.py").write_text(head + program if program else PROGRAM)
    options = launcher_options(launcher, ["TRTLLM_EXT_NUM_THREADS", "TRTLLM_EXT_RANK_TIMEOUT"])
    return subprocess.Popen(
        [*launcher, *options, "-n", "2", sys.executable, "program.py"],
        env={**os.environ, "TRTLLM_EXT_RANK_TIMEOUT": str(TIMEOUT_S)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def serving(launcher, folder):
    """A service that serves, and its ranks' process ids."""
    service = started(launcher, folder, SERVING)
    assert service.stdout.readline() == "serving\n", service.stderr.read()
    return service, [int((folder / f"pid{rank}").read_text()) for rank in range(2)]


def ends(service):
    out, err = service.communicate(timeout=LIMIT_S)
    return service.returncode, out, err


@pytest.mark.long
def test_it_waits_for_longer_than_ranks_wait_for_each_other(mpi_launcher, folder):
    program = PATIENT.format(seconds=2.5 * TIMEOUT_S)
    code, out, err = ends(started(mpi_launcher, folder, program))
    assert (code, err) == (0, "")
    assert sorted(out.splitlines()) == ["0 7 True", "1 None True"]
    assert np.load("y.npy").shape == (5, 64)


@pytest.mark.long
def test_the_page_s_own_program(mpi_launcher, folder):
    assert ends(started(mpi_launcher, folder, "")) == (0, "", "")
    assert np.load("y.npy").shape == (5, 64)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("whom", ["the launcher", "rank 0", "rank 1"])
def test_a_signal_ends_it_in_good_order(mpi_launcher, folder, whom, number):
    service, pids = serving(mpi_launcher, folder)
    Path("y.npy").unlink()
    os.kill({"the launcher": service.pid, "rank 0": pids[0], "rank 1": pids[1]}[whom], number)
    code, _, err = ends(service)
    # OpenMPI's mpirun has another code when a signal ended it, however its ranks ended.
    assert code == (1 if whom == "the launcher" and launcher_options(mpi_launcher) else 0), err
    assert Path("y.npy").exists(), "the last run was one of all ranks"


@pytest.mark.long
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_ends_all(mpi_launcher, folder, rank):
    service, pids = serving(mpi_launcher, folder)
    time.sleep(2 * TIMEOUT_S)
    os.kill(pids[rank], signal.SIGKILL)
    code, out, err = ends(service)
    assert code != 0
    assert re.search(rf"rank {rank} (was ended by signal 9|has died)", err), err
    assert "ended" not in out


@pytest.mark.long
def test_a_rank_that_is_stopped_is_noticed_though_nothing_runs(mpi_launcher, folder):
    service, pids = serving(mpi_launcher, folder)
    os.kill(pids[1], signal.SIGSTOP)
    code, _, err = ends(service)
    assert code != 0
    assert "at what the leading rank hands on: all_gather" in err
    assert "the process of rank 1 is stopped" in err
