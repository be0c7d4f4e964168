"""Runs of an engine of two ranks on two hosts, and a cable that is cut in the middle of one."""

import os
import re
import subprocess
import sys
import time

HIDDEN, TOKENS, LAYERS = 64, 4096, 8
LIMIT_S = 15  # after which something hangs
RUN_BYTES = HIDDEN * TOKENS * 4 * LAYERS  # over the cable, in each direction
RATE = "50mbit"  # of the cable that is to be cut: a run takes 1.3 s at least


def run_command(files, output):
    paths = {"engine_dir": files / "engine", "input": files / "input.npz", "output": output}
    words = [word for name, path in paths.items() for word in (f"--{name}", str(path))]
    return [sys.executable, "-m", "trtllm_ext", "run", *words]


def on_one_core():
    """Ranks use the processor while they wait in MPI; so they do it in turns."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def started(hosts, words, **variables):
    """The process of a command of the first host. Its output goes through pipes that all hold whom it starts."""
    return subprocess.Popen(
        hosts.on(0, words),
        preexec_fn=on_one_core,
        env={**os.environ, "TRTLLM_EXT_NUM_THREADS": "1", **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def cut_in_the_middle(hosts, process):
    """Cut the cable when the process's ranks have exchanged a part of what a run exchanges; the time then.

    The part is more than they exchange before the run, to try the collectives and the known answer.
    """
    begin = hosts.sent()
    while hosts.sent() < begin + RUN_BYTES // 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    hosts.cut()
    return time.monotonic()


def await_end(what, begin):
    """Wait until what() is empty. Fails when that is not so in time."""
    while left := what():
        assert time.monotonic() - begin < LIMIT_S, f"does not end within {LIMIT_S} s: {left}"
        time.sleep(0.25)


def ranks_on(hosts, host):
    """What is left there of the ranks and of what watches them, but for the launcher."""
    commands = hosts.processes(host).values()
    return [words for words in commands if sys.executable in words and not re.search("hydra|mpiexec", words)]
