"""Real ranks under the machine's own mpiexec: their collectives have the bits of those in memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rank_cases import cases, digests

from trtllm_ext.errors import RankError
from trtllm_ext.parallel import run_ranks, world
from trtllm_ext.parallel.launch import launcher_options

BUDGET_S = 8

LIMIT_S = 100
PROGRAM = Path(__file__).with_name("rank_cases.py")


@pytest.fixture(scope="module")
def mpiexec(mpi_launcher):
    return [*mpi_launcher, *launcher_options(mpi_launcher)]


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.long)])
def test_ranks_that_are_processes_have_the_bits_of_ranks_in_memory(mpiexec, ranks, tmp_path):
    command = [*mpiexec, "-n", str(ranks), sys.executable, str(PROGRAM), str(tmp_path)]
    environment = {**os.environ, "TRTLLM_EXT_RANK_TIMEOUT": "30"}
    ended = subprocess.run(command, env=environment, timeout=LIMIT_S, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    for rank, expected in enumerate(run_ranks(ranks, lambda each: digests(cases(each)))):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert len(expected) > 100
        assert found["whole"].keys() == expected.keys()
        assert len(found["in pieces"]) > 20
        for form in found.values():
            assert [name for name in form if form[name] != expected[name]] == [], rank


def test_no_world_without_a_launcher():
    code = """
import os, sys
from trtllm_ext.parallel import world
found = [world()]
os.environ.update(PMI_RANK="0", PMI_SIZE="1")
print(*found, world(), "mpi4py" in sys.modules)
"""
    ended = alone(code, {})
    assert (ended.returncode, ended.stdout) == (0, "None None False\n")


def test_a_launcher_of_another_mpi_is_named():
    # As a process that OpenMPI's mpirun started, whose mpi4py belongs to MPICH: it is alone.
    pytest.importorskip("mpi4py", reason="mpi4py is not installed")
    # It catches that, and goes on for longer than a rank may wait for others.
    code = """
import time
from trtllm_ext.errors import RankError
from trtllm_ext.parallel import world
for _ in range(2):
    try:
        world()
    except RankError as error:
        print(error)
    time.sleep(0.8)
print("went on", flush=True)
"""
    launched = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}
    ended = alone(code, {**launched, "TRTLLM_EXT_RANK_TIMEOUT": "0.5", "PYTHONWARNINGS": "error"})
    cause = "OpenMPI's mpirun started 2 ranks, but mpi4py's library ("
    first, second, last = ended.stdout.splitlines()
    assert first.startswith(f"rank 1: {cause}") and second == first
    assert "sees 1: the launcher belongs to another MPI" in first
    assert last == "went on"
    assert "suspicious" not in ended.stderr
    # The others, which may be waiting for this one, hear of it too.
    assert ended.returncode == 1
    last_line = ended.stderr.splitlines()[-1]
    assert last_line.startswith(f"trtllm-ext: rank 1 of 2 ends: rank 1 failed: {cause}")


def test_a_missing_mpi4py_is_named(monkeypatch):
    for name in launcher_variables():
        monkeypatch.delenv(name)
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(RankError) as caught:
        world()
    assert str(caught.value) == "a world of several ranks needs mpi4py and an MPI: pip install mpi4py mpich"


def launcher_variables():
    """Those of this process that a launcher may have set."""
    return [name for name in os.environ if name.startswith(("PMI", "PMIX", "OMPI", "MV2", "SLURM"))]


def alone(code, variables):
    """A program's end that runs with these launcher's variables and no others."""
    environment = {name: os.environ[name] for name in os.environ.keys() - launcher_variables()}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, **variables},
        timeout=LIMIT_S,
        capture_output=True,
        text=True,
        check=False,
    )
