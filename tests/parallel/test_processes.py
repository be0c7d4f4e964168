"""What is told of a launcher by the system, and how one ends that does not end by itself."""

import os
import subprocess
import time

import pytest

from trtllm_ext.parallel.watch import processes

BUDGET_S = 2

PATIENCE_S = 0.2


@pytest.fixture
def started(tmp_path):
    """Starts a program of a name, that does as a script says and lets a process of its own print its process id."""
    programs = []

    def start(name, before=""):
        script, outer, inner = tmp_path / name, tmp_path / "outer", tmp_path / "inner"
        inner.write_text("echo $$\nexec sleep 30\n")
        outer.write_text(f"sh {inner}\ntrue\n")  # what follows keeps a shell from handing itself over
        script.write_text(f"#!/bin/sh\n{before}\nsh {outer}\ntrue\n")
        script.chmod(0o755)
        programs.append(subprocess.Popen([script], stdout=subprocess.PIPE, text=True, start_new_session=True))
        return programs[-1], int(programs[-1].stdout.readline())

    yield start
    for program in programs:
        os.killpg(program.pid, 9)
        program.communicate()


@pytest.mark.parametrize("name", ["mpiexec", "mpirun", "prterun"])
def test_the_launcher_is_found_behind_others(started, name):
    program, descendant = started(name)
    pid, _ = processes.launcher_of(descendant)
    assert pid == program.pid


def test_other_programs_are_no_launchers(started):
    _, descendant = started("mpi_server")
    assert processes.launcher_of(descendant) == processes.launcher_of(os.getpid())


def test_one_that_does_not_end_is_asked_and_then_forced(started):
    for before, signal in (("", 15), ("trap '' TERM", 9)):
        program, descendant = started("mpiexec", before)
        begin = time.monotonic()
        processes.end(processes.launcher_of(descendant), PATIENCE_S)
        assert PATIENCE_S < time.monotonic() - begin < 20 * PATIENCE_S
        assert program.wait(timeout=5) == -signal


def test_another_process_that_has_its_number_is_left_alone(started):
    program, descendant = started("mpiexec")
    pid, start = processes.launcher_of(descendant)
    processes.end((pid, str(int(start) - 1)), PATIENCE_S)
    assert program.poll() is None
