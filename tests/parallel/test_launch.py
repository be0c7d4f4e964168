"""Finding and running a launcher: with small programs in its place, which start their ranks one after the other."""

import io
import os
import signal
import subprocess
import sys
import time

import pytest

from trtllm_ext.errors import RankError
from trtllm_ext.parallel import launch as launching
from trtllm_ext.parallel.launch import find_launcher, launch, launcher_options
from trtllm_ext.parallel.output import Output

BUDGET_S = 3

LIMIT_S = 12


@pytest.fixture
def launcher(tmp_path, monkeypatch):
    """Makes a launcher of a shell script, which gets `-n N PROGRAM ARGUMENTS`."""

    def make(script, version="HYDRA build details"):
        path = tmp_path / "mpiexec"
        path.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo "{version}"; exit; fi\n{script}\n')
        path.chmod(0o755)
        monkeypatch.setenv("TRTLLM_EXT_MPIEXEC", str(path))
        return path

    return make


def test_the_program_and_its_arguments_reach_the_launcher(launcher, capfd):
    launcher('printf "%s\\n" "$*"; echo "$TRTLLM_EXT_RANK_TIMEOUT $COLOUR"; echo "a warning" >&2')
    assert launch(3, ["run", "two words"], timeout=2.5, env={"COLOUR": "blue"}) == 0
    out, err = capfd.readouterr()
    assert out == f"-n 3 {sys.executable} -m trtllm_ext run two words\n2.5 blue\n"
    assert err == "a warning\n"


@pytest.mark.parametrize("code", [1, 7, 255])
def test_its_exit_code_and_a_last_line(launcher, capfd, code):
    launcher(f"echo 'no such model' >&2; exit {code}")
    assert launch(2, []) == code
    first, last = capfd.readouterr().err.splitlines()
    assert first == "no such model"
    assert (
        last == f"trtllm-ext: error: no rank came as far as joining the others: exit code {code}, see above"
    )


def test_what_the_ranks_have_told_is_not_told_again(launcher, capfd):
    launcher("echo 'trtllm-ext: error: rank 1: no such file' >&2; exit 3")
    assert launch(2, []) == 3
    assert capfd.readouterr().err == "trtllm-ext: error: rank 1: no such file\n"


def test_a_launcher_that_a_signal_ends(launcher, capfd):
    launcher("kill -9 $$")
    assert launch(2, []) == 1
    assert "exit code -9" in capfd.readouterr().err


def test_a_launcher_that_does_not_follow_its_ranks_is_ended(launcher, capfd, monkeypatch):
    monkeypatch.setattr(launching, "_END_S", 0.3)
    monkeypatch.setattr(launching.Hub, "verdict", "rank 1 failed: nothing works", raising=False)
    monkeypatch.setattr(launching.Hub, "__setattr__", _keep_verdict)
    launcher("sleep 60 & wait")
    begin = time.monotonic()
    assert launch(2, []) == 1
    assert time.monotonic() - begin < LIMIT_S
    assert capfd.readouterr().err == "trtllm-ext: error: rank 1 failed: nothing works\n"


def _keep_verdict(self, name, value):
    if name != "verdict":
        object.__setattr__(self, name, value)


@pytest.mark.parametrize(
    "number, code", [(signal.SIGINT, launching.INTERRUPTED), (signal.SIGTERM, launching.TERMINATED)]
)
def test_an_interrupt_ends_it(launcher, number, code):
    path = launcher("echo started; exec sleep 60")
    program = (
        "import sys; from trtllm_ext.parallel.launch import launch; "
        "sys.modules['trtllm_ext.parallel.launch']._END_S = 0.2; sys.exit(launch(2, []))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        env={**os.environ, "TRTLLM_EXT_MPIEXEC": str(path)},
    )
    assert process.stdout.readline() == b"started\n"
    process.send_signal(number)
    # The sleeping launcher holds the pipe: its end is the end of both.
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == code


@pytest.mark.parametrize(
    "number, code", [(signal.SIGINT, launching.INTERRUPTED), (signal.SIGTERM, launching.TERMINATED)]
)
def test_an_interrupt_in_the_middle_of_something(launcher, monkeypatch, number, code):
    launcher("exec sleep 60")
    monkeypatch.setattr(launching, "_END_S", 0.1)
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]

    def output(process):
        # The launcher has been started, and nobody waits for it yet.
        os.kill(os.getpid(), number)
        return Output(process)

    monkeypatch.setattr(launching, "Output", output)
    assert launch(2, []) == code
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.parametrize("is_there, signals, code", [(True, 1, 5), (True, 2, 143), (False, 1, 143)])
def test_the_first_signal_is_for_the_rank_that_leads(launcher, monkeypatch, is_there, signals, code):
    launcher("sleep 1; exit 5")
    monkeypatch.setattr(launching, "_END_S", 0.1)
    sent = []
    monkeypatch.setattr(launching.Hub, "signal", lambda hub, *what: sent.append(what) or is_there)

    def output(process):
        for _ in range(signals):
            os.kill(os.getpid(), signal.SIGTERM)
        return Output(process)

    monkeypatch.setattr(launching, "Output", output)
    assert launch(2, [], is_led=True) == code
    assert sent == [(0, signal.SIGTERM)]


@pytest.mark.parametrize(
    "version",
    ["mpirun (Open MPI) 4.1.6", "mpiexec (OpenRTE) 4.0.1", "prterun (PRRTE) 3.0", "mpirun (Open MPI) 5.0.3"],
)
def test_openmpi_is_told_what_others_do_anyway(launcher, version):
    options = launcher_options([str(launcher("", version))], ["HUB"])
    assert options[0] == "--oversubscribe"
    assert options[-2:] == ["-x", "HUB"]
    assert ("--allow-run-as-root" in options) == (os.geteuid() == 0)


@pytest.mark.parametrize(
    "version", ["HYDRA build details:", "Intel(R) MPI Library for Linux* OS", "slurm 23.11"]
)
def test_others_need_nothing(launcher, version):
    assert launcher_options([str(launcher("", version))], ["HUB"]) == []


def test_a_launcher_beside_python_goes_before_the_path(launcher, tmp_path, monkeypatch):
    path = launcher("")
    monkeypatch.delenv("TRTLLM_EXT_MPIEXEC")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert find_launcher() == [str(path)]
    (tmp_path / "path").mkdir()
    moved = path.rename(tmp_path / "path" / "mpirun")
    monkeypatch.setenv("PATH", str(moved.parent))
    assert find_launcher() == [str(moved)]
    moved.unlink()
    with pytest.raises(RankError, match=r"no MPI launcher .*pip install mpi4py mpich"):
        find_launcher()


def test_a_launcher_with_options(launcher, monkeypatch):
    path = launcher("")
    monkeypatch.setenv("TRTLLM_EXT_MPIEXEC", f"{path} -f 'my hosts'")
    assert find_launcher() == [str(path), "-f", "my hosts"]
    monkeypatch.setenv("TRTLLM_EXT_MPIEXEC", "/no/such/mpiexec -f hosts")
    with pytest.raises(RankError, match=r"TRTLLM_EXT_MPIEXEC='/no/such/mpiexec' is no program"):
        find_launcher()


def test_output_goes_to_streams_of_text_too(launcher, monkeypatch):
    launcher('printf "\\303"; sleep 0.1; echo "\\244"; echo "aside" >&2; exit 5')
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert launch(2, []) == 5
    assert out.getvalue() == "ä\n"
    assert err.getvalue().splitlines()[0] == "aside"


def test_output_that_nobody_takes_stops_no_rank(launcher, monkeypatch, tmp_path):
    launcher(f'echo out; echo aside >&2; sleep 0.2; echo out; touch "{tmp_path}/ended"; exit 5')
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert launch(2, []) == 5
    assert (tmp_path / "ended").exists()


@pytest.mark.parametrize("nproc", [0, -1])
def test_less_than_one_rank(nproc):
    with pytest.raises(RankError, match="at least 1"):
        launch(nproc, [])
