"""Runs of programs of two ranks that must end."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trtllm_ext.parallel.launch import launcher_options

LIMIT_S = 15  # after which something hangs
SHORT = {"TRTLLM_EXT_RANK_TIMEOUT": "2"}
# For ranks that never meet: how far apart they start does not matter, and MPI keeps a processor busy all that time.
SHORTER = {"TRTLLM_EXT_RANK_TIMEOUT": "1"}
PROGRAM = Path(__file__).with_name("faulty_rank.py")


def two_ranks(launcher):
    """The command that starts two ranks of the faulty program, without its arguments."""
    return [*launcher, *launcher_options(launcher), "-n", "2", sys.executable, str(PROGRAM)]


def on_one_core():
    """Ranks use the processor while they wait in MPI; so they do it in turns."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def ended(command, environment=SHORT):
    """Exit code, stdout and stderr of a command that must end, with all that it started."""
    # The output goes through pipes that every process holds: their end is the end of all of them.
    begin = time.monotonic()
    process = subprocess.Popen(
        command,
        env={**os.environ, "TRTLLM_EXT_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=on_one_core,
    )
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"does not end within {LIMIT_S} s: {command}\n{process.communicate()}")
    assert time.monotonic() - begin < LIMIT_S
    for path in re.findall(r"^shared (/dev/shm/.*)$", out, re.MULTILINE):
        assert not Path(path).exists(), f"{path} is left behind"
    for pid in map(int, re.findall(r"^pid (\d+)$", out, re.MULTILINE)):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    return process.returncode, out, err
