"""docker/entrypoint.sh: what it starts, as how many ranks; the programs are stand-ins that print their arguments."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trtllm_ext.cli.main import COMMANDS

BUDGET_S = 8
ENTRYPOINT = Path(__file__).parents[2] / "docker/entrypoint.sh"
SAID = '#!/bin/sh\necho "$(basename "$0")$(printf " [%s]" "$@")"\n'


@pytest.fixture
def programs(tmp_path):
    """A folder for PATH with programs that print their names and arguments."""
    for name in ("trtllm-ext", "python3", "other"):
        (tmp_path / name).write_text(SAID)
        (tmp_path / name).chmod(0o755)
    return tmp_path


@pytest.fixture
def started(programs):
    """started(words, nproc): what the entrypoint runs."""

    def start(*words, nproc=None):
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        env = {name: value for name, value in os.environ.items() if name != "TRTLLM_EXT_NPROC"}
        env |= {"PATH": path, **({} if nproc is None else {"TRTLLM_EXT_NPROC": nproc})}
        return subprocess.run([ENTRYPOINT, *words], capture_output=True, text=True, env=env, check=False)

    return start


@pytest.mark.parametrize("command", COMMANDS)
def test_it_knows_every_command(started, command):
    assert started(command, "--x", "a b").stdout == f"trtllm-ext [{command}] [--x] [a b]\n"


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        ((), "trtllm-ext [--help]"),
        (("--version",), "trtllm-ext [--version]"),
        (("trtllm-ext", "run"), "trtllm-ext [run]"),
        (("trtllm-ext",), "trtllm-ext [--help]"),
        (("other", "-c", "x y"), "other [-c] [x y]"),
        (("--nproc", "1", "other"), "other []"),
    ],
)
def test_one_process(started, words, runs):
    assert started(*words).stdout == f"{runs}\n"


@pytest.mark.parametrize("command", ["run", "embed", "serve"])
def test_commands_that_start_their_ranks_are_told_how_many(started, command):
    told = f"trtllm-ext [{command}] [--engine_dir] [e] [--nproc] [2]\n"
    assert started(command, "--engine_dir", "e", nproc="2").stdout == told
    assert started("--nproc", "2", command, "--engine_dir", "e", nproc="3").stdout == told
    assert started("--nproc=2", command, "--engine_dir", "e").stdout == told
    assert started(command, "--engine_dir", "e", "--nproc", "2", nproc="4").stdout == told


@pytest.mark.parametrize("command", ["convert", "doctor", "export", "inspect", "refit", "verify"])
def test_commands_for_one_process_run_as_one(started, command):
    assert started(command, "x", nproc="2").stdout == f"trtllm-ext [{command}] [x]\n"


@pytest.mark.parametrize("words", [("other", "x"), ("trtllm-ext", "build", "x"), ("build", "x")])
def test_other_programs_and_build_are_launched_as_ranks(started, words):
    said = started(*words, nproc="2").stdout
    program = words if words[0] != "build" else ("trtllm-ext", *words)
    assert said.startswith("python3 [-c] [import sys\n")
    assert said.endswith(f" [2] {' '.join(f'[{word}]' for word in program)}\n")


@pytest.mark.parametrize("nproc", ["0", "two", "-1", "", "1.5", "02"])
def test_what_is_no_number_of_ranks_is_refused(started, nproc):
    run = started("--nproc", nproc, "run")
    assert (run.returncode, run.stdout) == (2, "")
    assert f"'{nproc}' is no number of ranks" in run.stderr
    assert "--nproc needs a number of ranks" in started("--nproc").stderr


@pytest.mark.parametrize("shell", ["sh", "/bin/sh"])
def test_a_shell_is_one_process(started, shell):
    assert started(shell, "-c", "echo $$ once", nproc="3").stdout.count("once") == 1


def test_root_may_start_ranks_of_open_mpi(started, programs):
    """Only of root: to others Open MPI refuses nothing."""
    says = "echo ${OMPI_ALLOW_RUN_AS_ROOT:-unset} ${OMPI_ALLOW_RUN_AS_ROOT_CONFIRM:-unset}"
    for user, answer in (("0", "1 1"), ("1000", "unset unset")):
        (programs / "id").write_text(f"#!/bin/sh\necho {user}\n")
        (programs / "id").chmod(0o755)
        assert started("sh", "-c", says).stdout == f"{answer}\n"


def test_exit_codes_and_signals_are_the_program_s(started, programs):
    assert started("sh", "-c", "exit 7").returncode == 7
    program = subprocess.Popen(
        [ENTRYPOINT, sys.executable, "-c", "print(1, flush=True); import time; time.sleep(60)"],
        stdout=subprocess.PIPE,
    )
    assert program.stdout.read(1) == b"1"
    program.terminate()
    assert program.wait(10) == -signal.SIGTERM  # of the program itself, in whose place the shell is gone
    program.stdout.close()
