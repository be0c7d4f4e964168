"""Two ranks of a small model, started as users start them, with a fault planted into one."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from trtllm_ext.cli import main as cli
from trtllm_ext.models.random import write_random_checkpoint
from trtllm_ext.models.sublayer_stack import sublayer_stack_config
from trtllm_ext.parallel import Mapping
from trtllm_ext.parallel.launch import launcher_options

LIMIT_S = 15  # by then all ranks have ended
HANGS_S = 20  # after which a test waits no longer
HERE = Path(__file__).parent
COMMAND = [sys.executable, "-m", "trtllm_ext"]
HIDDEN = 16


@pytest.fixture(scope="session")
def mpiexec(mpi_launcher):
    return [*mpi_launcher, *launcher_options(mpi_launcher, ["PYTHONPATH", "PLANTED"])]


def build(folder, ranks):
    config = sublayer_stack_config(hidden_size=HIDDEN, ffn_hidden_size=32, num_hidden_layers=2)
    mapping = Mapping(world_size=ranks, tp_size=ranks)
    write_random_checkpoint(folder / "checkpoint", replace(config, mapping=mapping))
    paths = ["--checkpoint_dir", f"{folder}/checkpoint", "--output_dir", f"{folder}/engine"]
    assert cli.main(["build", *paths, "--max_num_tokens", "32"]) == 0
    return folder / "engine"


@pytest.fixture(scope="session")
def engine(tmp_path_factory):
    """An engine directory of two ranks."""
    return build(tmp_path_factory.mktemp("two"), 2)


@pytest.fixture(scope="session")
def engine_of_one(tmp_path_factory):
    return build(tmp_path_factory.mktemp("one"), 1)


@pytest.fixture(scope="session")
def built_again(tmp_path_factory):
    """Of the same checkpoint as `engine`."""
    return build(tmp_path_factory.mktemp("again"), 2)


def is_running(pid):
    """Not so where one has ended whose parent has not asked how, as of a launcher that was killed."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@dataclass
class Ended:
    """launcher: "mpiexec" or "nproc". seconds: from the start, or from the fault where a test makes it itself."""

    launcher: str
    code: int
    out: str
    err: str
    seconds: float

    def names(self, sentence):
        """Assert that the ranks failed, and that a sentence (a regular expression) on stderr says why."""
        assert self.code != 0
        assert re.search(sentence, self.err), self.err
        if self.launcher == "nproc":
            last = self.err.splitlines()[-1]
            assert last.startswith("trtllm-ext: error: "), self.err
            assert re.search(sentence, last), self.err


class Ranks:
    """Starts ranks, and looks at what they leave."""

    def __init__(self, mpiexec, folder):
        self.folder = folder
        self.outputs, self.pids, self.inputs = (folder / name for name in ("outputs", "pids", "inputs"))
        for each in (self.outputs, self.pids, self.inputs):
            each.mkdir()
        self.output = self.outputs / "output.npz"
        self._mpiexec = mpiexec
        self._process = None

    def input(self, tokens=4):
        path = self.inputs / f"{tokens}.npz"
        np.savez(path, hidden_states=np.ones((tokens, HIDDEN), np.float32))
        return path

    def start(self, launcher, engine_dir, *faults, count=2, timeout_s=None, input=None):
        """Begin `trtllm-ext run`. faults: (rank, when, statements), as `planted/sitecustomize.py` has them.

        timeout_s: None for the default, 10.
        """
        arguments = ["run", "--engine_dir", str(engine_dir), "--output", str(self.output)]
        arguments += ["--input", str(input or self.input())]
        if launcher == "nproc":
            self.begin(launcher, [*COMMAND, *arguments, "--nproc", str(count)], faults, timeout_s)
        else:
            self.begin(launcher, [*self._mpiexec, "-n", str(count), *COMMAND, *arguments], faults, timeout_s)

    def start_program(self, engine_dir, statement):
        """Begin user_program.py under a launcher."""
        program = [
            sys.executable,
            str(HERE / "user_program.py"),
            str(engine_dir),
            str(self.output),
            statement,
        ]
        self.begin("mpiexec", [*self._mpiexec, "-n", "2", *program], [], None)

    def begin(self, launcher, command, faults, timeout_s):
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(HERE / "planted"), os.environ.get("PYTHONPATH")])
            ),
            "PLANTED": json.dumps({"folder": str(self.pids), "faults": faults}),
            "TRTLLM_EXT_NUM_THREADS": "1",
            "TRTLLM_EXT_RANK_TIMEOUT": "" if timeout_s is None else str(timeout_s),
        }
        self._launcher, self._begin = launcher, time.monotonic()
        self._process = subprocess.Popen(
            command,
            env=environment,
            cwd=self.inputs,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, name):
        """The content of a file that a rank writes beside the ids of the processes."""
        path, deadline = self.pids / name, time.monotonic() + HANGS_S
        while not (path.exists() and path.read_text()):
            assert time.monotonic() < deadline and self._process.poll() is None, self._process.communicate()
            time.sleep(0.02)
        return path.read_text()

    def kill(self, rank, number):
        self._begin = time.monotonic()
        os.kill(int(self.wait_for(f"{rank}.pid")), number)

    def signal_launcher(self, number):
        self._begin = time.monotonic()
        self._process.send_signal(number)

    def end(self, is_left=()):
        """Wait for the end, which comes in time; no process is left then, and no file but these of the outputs."""
        try:
            out, err = self._process.communicate(timeout=HANGS_S)
        except subprocess.TimeoutExpired:
            self.stop()
            pytest.fail(f"not ended within {HANGS_S} s: {self._process.communicate()}")
        while any(map(is_running, self._ids())) and time.monotonic() < self._begin + LIMIT_S:
            time.sleep(0.02)
        seconds = time.monotonic() - self._begin
        assert seconds < LIMIT_S
        assert not [pid for pid in self._ids() if is_running(pid)]
        assert sorted(each.name for each in self.outputs.iterdir()) == sorted(is_left)
        return Ended(self._launcher, self._process.returncode, out, err, seconds)

    def stop(self):
        """Whatever is still there."""
        for pid in [*self._ids(), self._process.pid]:
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)

    def _ids(self):
        return [int(path.read_text() or 0) for path in self.pids.glob("*.pid")]


@pytest.fixture
def ranks(mpiexec, tmp_path):
    made = Ranks(mpiexec, tmp_path)
    yield made
    if made._process is not None and made._process.poll() is None:
        made.stop()
