"""What the system tells of processes on this host."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

# Of MPICH and OpenMPI.
_MPI_PREFIXES = ("mpich_", "vader_segment", "sm_segment", "osc_rdma")
_LAUNCHERS = ("mpiexec", "mpiexec.hydra", "mpirun", "orterun", "prterun")
_STARTED = 19  # the field of `_stat` with the time of the start


def host_id() -> str:
    """The same for two processes exactly when a process id means the same to both."""
    return system_and("pid")


def system_and(namespace: str) -> str:
    """What tells this running system and its namespace of a kind ("pid", "net") from others; "" where unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns', namespace).readlink()}"
    except OSError:
        return ""


def launcher_of(pid: int) -> tuple[int, str] | None:
    """The MPI launcher that a process of this host comes from, if that runs here too: its id and when it started."""
    while pid > 1 and (fields := _stat(pid)):
        if _name(pid) in _LAUNCHERS:
            return pid, fields[_STARTED]
        pid = int(fields[1])
    return None


def end(process: tuple[int, str], patience: float) -> None:
    """Wait for a process, given as `launcher_of` does, to end; ask it after `patience` seconds, then force it."""
    pid, start = process
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            time.sleep(0.05)
            fields = _stat(pid)
            if not fields or fields[0] == "Z" or fields[_STARTED] != start:
                return
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def is_stopped(pid: int) -> bool:
    """By a signal or a debugger."""
    fields = _stat(pid)
    return bool(fields) and fields[0] in "Tt"


def ended_by(pid: int) -> int:
    """The signal that ended a process, while its parent has not yet asked; 0 if it cannot be known, or was none."""
    fields = _stat(pid)
    return int(fields[-1]) & 0x7F if fields and fields[0] == "Z" else 0


def shared_memory(pid: int) -> set[str]:
    """The files of shared memory that an MPI library made for this process, which stay behind when it is killed."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return set()
    paths = {line.split(maxsplit=5)[-1] for line in lines if "/dev/shm/" in line}
    return {path for path in paths if Path(path).name.startswith(_MPI_PREFIXES) and Path(path).exists()}


def signal_name(number: int) -> str:
    """ "signal 9 (SIGKILL)" """
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; the last is the exit code as wait gives it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
