"""Real ranks under the machine's own mpiexec: their collectives have the bits of those in memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rank_cases import cases, digests

from trtllm_ext.errors import RankError
from trtllm_ext.parallel import run_ranks
from trtllm_ext.parallel.launch import find_launcher, launcher_options

BUDGET_S = 8

LIMIT_S = 100
PROGRAM = Path(__file__).with_name("rank_cases.py")


@pytest.fixture(scope="module")
def mpiexec():
    pytest.importorskip("mpi4py", reason="mpi4py is not installed")
    try:
        launcher = find_launcher()
    except RankError as error:
        pytest.skip(f"no MPI launcher: {error}")
    return [*launcher, *launcher_options(launcher)]


@pytest.mark.parametrize("ranks", [2, 4])
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
    code = "import sys; from trtllm_ext import parallel; print(parallel.world(), 'mpi4py' in sys.modules)"
    assert ended_alone(code, {}) == "None False"
    assert ended_alone(code, {"PMI_RANK": "0", "PMI_SIZE": "1"}) == "None False"


def test_a_launcher_of_another_mpi_is_named():
    # As a process that OpenMPI's mpirun started, whose mpi4py belongs to MPICH: it is alone.
    pytest.importorskip("mpi4py", reason="mpi4py is not installed")
    code = """
from trtllm_ext.errors import RankError
from trtllm_ext.parallel import world
try:
    world()
except RankError as error:
    print(error)
"""
    said = ended_alone(code, {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"})
    assert said.startswith("rank 1: OpenMPI's mpirun started 2 ranks, but mpi4py's library (")
    assert "sees 1: the launcher belongs to another MPI" in said


def test_a_missing_mpi4py_is_named():
    code = """
import sys
sys.modules["mpi4py"] = None
from trtllm_ext.errors import RankError
from trtllm_ext.parallel import world
try:
    world()
except RankError as error:
    print(error)
"""
    said = ended_alone(code, {"PMI_RANK": "0", "PMI_SIZE": "2"})
    assert said == "a world of several ranks needs mpi4py: pip install trtllm-ext[mpi]"


def ended_alone(code, variables):
    """What a program prints that runs with these launcher's variables and no others."""
    started = ("PMI", "PMIX", "OMPI", "MV2", "SLURM")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(started)}
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, **variables},
        timeout=LIMIT_S,
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout.strip()
