"""Start ranks through the machine's MPI launcher, and say at the end which of them failed, and of what."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from trtllm_ext.errors import RankError
from trtllm_ext.parallel.monitor import HUB_VARIABLE
from trtllm_ext.parallel.output import Output
from trtllm_ext.parallel.watch.addresses import own_addresses
from trtllm_ext.parallel.watch.hub import Hub
from trtllm_ext.parallel.watch.processes import signal_name
from trtllm_ext.parallel.world import PROCESS_VARIABLE, TIMEOUT_VARIABLE, default_timeout

LAUNCHER_VARIABLE = "TRTLLM_EXT_MPIEXEC"
# Exit codes of programs that Ctrl-C and SIGTERM ended, as shells have them.
INTERRUPTED, TERMINATED = 130, 143
_SIGNALS = {
    signal.SIGINT: (INTERRUPTED, "the launcher was interrupted"),
    signal.SIGTERM: (TERMINATED, "the launcher was ended by SIGTERM"),
}
_PREFIX = "trtllm-ext: error: "  # of the sentence that says why, here and in ranks

# After the verdict ranks end themselves, the launcher after them; one that does not is ended.
_END_S = 4.0
_TERM_S = 1.5
# The launcher can be faster than the hub's decision, and what ranks still write must come before the last line.
_LAST_WORDS_S = 3.0
_POLL_S = 0.05


def launch(
    nproc: int,
    argv: Sequence[str],
    timeout: float | None = None,
    env: Mapping[str, str] | None = None,
    program: Sequence[str] = (sys.executable, "-m", "trtllm_ext"),
    is_led: bool = False,
) -> int:
    """Run `program` with the arguments `argv` as `nproc` ranks until they end; their exit code.

    The ranks' output goes to this process's. When they fail, the last line on stderr, theirs or one of this process,
    names the rank and the cause, and the exit code is not 0. Ctrl-C and SIGTERM end all ranks. timeout: seconds that
    a rank may wait for the others in one operation; None is `default_timeout()`. env: variables in addition to this
    process's. is_led: rank 0 leads the others and finishes what it has begun: it is sent the first signal that comes,
    and only a second one ends all ranks.
    Raises RankError for less than one rank, and if no launcher is found.
    """
    if nproc < 1:
        raise RankError(f"{nproc} ranks cannot be started; at least 1")
    launcher = find_launcher()
    timeout = default_timeout() if timeout is None else timeout
    spread = _is_spread(launcher)
    hub = Hub(nproc, timeout, everywhere=spread)
    try:
        place = {"place": "the launcher", "hosts": own_addresses() if spread else ["127.0.0.1"]}
        own = {
            HUB_VARIABLE: json.dumps({**place, "port": hub.port, "token": hub.token}),
            TIMEOUT_VARIABLE: f"{timeout:g}",
        }
        command = [*launcher, *launcher_options(launcher, own), "-n", str(nproc), *program, *argv]
        noted = _Noted(hub if is_led else None)
        with noted.noting():
            variables = {**os.environ, **(env or {}), **own}
            variables.pop(PROCESS_VARIABLE, None)  # of what started this process; the ranks are ranks
            return _run(command, variables, hub, noted)
    finally:
        hub.stop()


def find_launcher() -> list[str]:
    """The command that starts MPI programs: TRTLLM_EXT_MPIEXEC, else beside this Python, else on the PATH.

    TRTLLM_EXT_MPIEXEC may hold options too, such as "mpiexec -f hosts". Raises RankError if there is none.
    """
    given = shlex.split(os.environ.get(LAUNCHER_VARIABLE, ""))
    if given:
        if shutil.which(given[0]) is None:
            raise RankError(
                f"{LAUNCHER_VARIABLE}={given[0]!r} is no program; set the path of an mpiexec, or unset it"
            )
        return given
    for folder in (str(Path(sys.executable).parent), None):
        for name in ("mpiexec", "mpirun"):
            found = shutil.which(name, path=folder)
            if found:
                return [found]
    raise RankError(
        "no MPI launcher (mpiexec, mpirun) is beside this Python or on the PATH: `pip install mpi4py mpich` brings "
        f"one, a system's MPI (apt install mpich) another; {LAUNCHER_VARIABLE} names one elsewhere"
    )


def launcher_options(launcher: Sequence[str], variables: Iterable[str] = ()) -> list[str]:
    """What this launcher needs in order to do what others do of themselves. variables: to hand on to the ranks."""
    try:
        asked = subprocess.run(
            [launcher[0], "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RankError(f"the MPI launcher {launcher[0]} does not start: {error}") from error
    if not re.search(r"open[ -]?mpi|openrte|prrte|prterun", asked.stdout + asked.stderr, re.IGNORECASE):
        return []
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    exported = [word for variable in variables for word in ("-x", variable)]
    return ["--oversubscribe", *root, *exported]


def _is_spread(launcher: Sequence[str]) -> bool:
    """Whether ranks may start on other hosts than this one."""
    hosts = any(
        name in os.environ
        for name in ("HYDRA_HOST_FILE", "PRTE_MCA_hostfile", "OMPI_MCA_orte_default_hostfile")
    )
    return hosts or len(launcher) > 1 or os.environ.get("SLURM_JOB_NUM_NODES", "1") != "1"


class _Noted:
    """The signal that is to end this process, SIGINT or SIGTERM, while `noting`; None before one has come.

    hub: of ranks that rank 0 leads, which is sent the first signal, if it is there. That one does not count here.
    """

    number: signal.Signals | None = None

    def __init__(self, hub: Hub | None = None) -> None:
        self._hub = hub
        self._first: int | None = None

    def take(self, number: int, frame: FrameType | None) -> None:
        if self._hub is not None and self._first is None:
            self._first = number  # sent by `hand_on`: a handler may be called in the middle of anything
            return
        self.number = self.number or signal.Signals(number)

    def hand_on(self) -> None:
        """Send rank 0 what came first, once."""
        if self._hub is None or self._first is None:
            return
        hub, self._hub = self._hub, None
        if not hub.signal(0, self._first):
            self.number = self.number or signal.Signals(self._first)

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Batch systems and `timeout` send SIGTERM, which would end this process before it has told the ranks.

        A handler that raises could do so in the middle of anything, such as the start of a thread. Only in the main
        thread, to which signals belong, and where nobody else handles them.
        """
        is_ours = threading.current_thread() is threading.main_thread()
        before = {number: signal.getsignal(number) for number in _SIGNALS} if is_ours else {}
        ours = {
            number: handler
            for number, handler in before.items()
            if handler in (signal.SIG_DFL, signal.default_int_handler)
        }
        for number in ours:
            signal.signal(number, self.take)
        try:
            yield
        finally:
            for number, handler in ours.items():
                signal.signal(number, handler)


def _run(command: Sequence[str], env: Mapping[str, str], hub: Hub, noted: _Noted) -> int:
    stdin = subprocess.DEVNULL if sys.stdin is None or sys.stdin.isatty() else None
    # A session of its own: Ctrl-C is for this process, which tells the ranks why they end.
    process = subprocess.Popen(
        command, env=env, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    output = Output(process)
    try:
        code = _wait(process, hub, noted)
    except KeyboardInterrupt:  # of another one's handler
        noted.take(signal.SIGINT, None)
        code = _wait(process, hub, noted)
    heard = output.heard(_LAST_WORDS_S)
    if noted.number is not None:
        return _SIGNALS[noted.number][0]
    sentence = _sentence(code, hub, heard)
    if sentence is not None:
        with suppress(OSError, ValueError, AttributeError):  # closed, or never there
            sys.stderr.write(f"{_PREFIX}{sentence}\n")
            sys.stderr.flush()
    elif code == 0:
        return 0
    return code if 0 < code < 256 else 1


def _wait(process: subprocess.Popen[bytes], hub: Hub, noted: _Noted) -> int:
    """The launcher's exit code; ended by force when it does not follow its ranks."""
    deadline = float("inf")
    while (code := process.poll()) is None:
        noted.hand_on()
        if noted.number is not None:
            hub.end(_SIGNALS[noted.number][1])
        if noted.number is not None or hub.verdict is not None:
            deadline = min(deadline, time.monotonic() + _END_S)
        if time.monotonic() > deadline:
            return _killed(process)
        time.sleep(_POLL_S)
    hub.settle()
    return code


def _killed(process: subprocess.Popen[bytes]) -> int:
    """End the launcher, which gets a moment to end what it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            return process.wait(_TERM_S)
    return process.wait()


def _sentence(code: int, hub: Hub, heard: str) -> str | None:
    """What is to be said at the end; None after a good end, and when the ranks have said it."""
    if hub.verdict is None:
        if code == 0 or re.search(rf"^{_PREFIX}", heard, re.MULTILINE):
            return None
        absent = [state.rank for state in hub.states if state.kind == "absent"]
        if len(absent) == len(hub.states):
            return f"no rank came as far as joining the others: exit code {code}, see above"
        return f"the ranks ended with exit code {code}, see above"
    # Launchers name the signal that ended the first process that one ended.
    number = re.search(r"\(?signal (\d+)", heard)
    if hub.dead is None or number is None:
        return hub.verdict
    return f"rank {hub.dead} was ended by {signal_name(int(number[1]))}{hub.states[hub.dead].place()}"
