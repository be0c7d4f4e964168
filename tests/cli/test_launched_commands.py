"""Commands for one process that a launcher starts as several ranks: refused once, or run by rank 0 alone."""

import os
import subprocess
import sys

import pytest

from trtllm_ext.cli import main as cli
from trtllm_ext.parallel.launch import launcher_options

BUDGET_S = 4

ONE_PROCESS = {
    "convert": ("--model_dir", "nowhere", "--output_dir", "nowhere"),
    "inspect": ("--engine_dir", "nowhere"),
    "verify": ("--checkpoint_dir", "nowhere"),
}


@pytest.fixture
def launched(monkeypatch):
    """launched(rank, size) makes this process one that a launcher started."""

    def launch(rank, size):
        monkeypatch.setenv("PMI_RANK", str(rank))
        monkeypatch.setenv("PMI_SIZE", str(size))

    names = ("OMPI_", "PMI_", "PMIX_", "MV2_", "SLURM_", "TRTLLM_EXT_RANK_PROCESS")
    for name in [name for name in os.environ if name.startswith(names)]:
        monkeypatch.delenv(name)
    return launch


@pytest.mark.parametrize("command", ONE_PROCESS)
def test_commands_for_one_process_are_refused_as_ranks(launched, monkeypatch, capsys, command):
    given, begins = (command, *ONE_PROCESS[command]), f"trtllm-ext: error: `trtllm-ext {command}` "
    launched(0, 2)
    assert cli.main(given) == 1
    said = capsys.readouterr().err
    assert said.startswith(begins)
    assert said.endswith(" in one process; start it without mpirun.\n")
    # The others say nothing, and let rank 0 end first.
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    launched(1, 2)
    assert cli.main(given) == 1
    assert capsys.readouterr() == ("", "")
    assert slept == [1.0]
    # What a rank starts is alone in saying it.
    monkeypatch.setenv("TRTLLM_EXT_RANK_PROCESS", "1 -")
    assert cli.main(given) == 1
    said = capsys.readouterr().err
    assert said.startswith(begins)
    assert said.endswith(" start it with TRTLLM_EXT_RANK_PROCESS=none.\n")


@pytest.mark.parametrize("command", ONE_PROCESS)
@pytest.mark.parametrize("alone", ["of one rank", "let alone", "not a launch"])
def test_commands_for_one_process_run_where_there_is_one(launched, monkeypatch, capsys, command, alone):
    launched({"of one rank": 0, "let alone": 1, "not a launch": 7}[alone], 1 if alone == "of one rank" else 2)
    if alone == "let alone":
        monkeypatch.setenv("TRTLLM_EXT_RANK_PROCESS", "none")
    assert cli.main([command, *ONE_PROCESS[command]]) == 1
    said = capsys.readouterr().err
    assert "nowhere" in said
    assert "in one process" not in said


def test_doctor_runs_on_rank_0(launched, monkeypatch, capsys):
    monkeypatch.setattr(cli.doctor, "examine", lambda: iter([cli.doctor.Finding("ok", "all", "of it")]))
    for rank in (0, 1):
        launched(rank, 2)
        assert cli.main(["doctor"]) == 0
        assert ("of it" in capsys.readouterr().out) == (rank == 0)


def test_a_launcher_s_ranks_are_refused_once(mpi_launcher):
    done = subprocess.run(
        [
            *mpi_launcher,
            *launcher_options(mpi_launcher),
            "-n",
            "2",
            sys.executable,
            "-m",
            "trtllm_ext",
            "verify",
            *ONE_PROCESS["verify"],
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode != 0
    refusal = "trtllm-ext: error: `trtllm-ext verify` runs all ranks in one process; start it without mpirun."
    assert done.stderr.count("trtllm-ext") == 2, done.stderr
    assert refusal in done.stderr.splitlines()
