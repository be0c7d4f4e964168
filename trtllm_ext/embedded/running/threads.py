"""How many threads an engine uses, and whether it shares them with the other engines of the process."""

import math
import os
from pathlib import Path
from typing import Literal

from trtllm_ext.errors import ConfigError
from trtllm_ext.parallel.world import ranks_on_host

# Whose threads run an engine: the one pool of the process, or no others than the caller's.
ThreadPool = Literal["process", "none"]

THREADS_VARIABLE = "TRTLLM_EXT_NUM_THREADS"
POOL_VARIABLE = "TRTLLM_EXT_THREAD_POOL"
SPINNING_VARIABLE = "TRTLLM_EXT_SPINNING"
# An engine that plugins cut into many sessions has a pool for each.
_MAX_THREADS_OF_ENGINE = 512
_CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def num_threads() -> int:
    """TRTLLM_EXT_NUM_THREADS if it is set, else the number of cores that this process may use, at least 1.

    Cores are those of the process's affinity mask, further limited by its share of the host's cores and of the
    processor quota of its control group, when a launcher started several ranks on this host. A rank that its launcher
    bound to its share keeps all of that.
    Raises ConfigError if the variable is not a positive integer.
    """
    asked = os.environ.get(THREADS_VARIABLE, "")
    if asked:
        if not asked.isascii() or not asked.isdigit() or not 1 <= int(asked) <= 1024:
            raise ConfigError(
                f"{THREADS_VARIABLE}={asked!r} is not a number of threads. Set it to 1 .. 1024, or unset it."
            )
        return int(asked)
    cores = min(os.cpu_count() or 1, _quota())
    return max(1, min(len(os.sched_getaffinity(0)), cores // ranks_on_host(os.environ)))


def threads_of_session(num_sessions: int) -> int:
    """Threads of one session of an engine that has that many: fewer where there would be too many in all.

    Only one of them is at work at a time. Raises ConfigError as `num_threads()`.
    """
    return max(1, min(num_threads(), _MAX_THREADS_OF_ENGINE // num_sessions))


def shares_process_pool() -> bool:
    """Whether the sessions of an engine use the process's one thread pool.

    TRTLLM_EXT_THREAD_POOL is `engine` (default: a pool an engine) or `process` (one pool for all engines, so that a
    process with many of them has no more threads than with one). It is not the default since ONNX Runtime, once it has
    such a pool, refuses every session of the process that does not ask for it (`use_per_session_threads = False`): a
    library must not do that to its host.
    Raises ConfigError for another value.
    """
    asked = os.environ.get(POOL_VARIABLE, "") or "engine"
    if asked not in ("engine", "process"):
        raise ConfigError(f"{POOL_VARIABLE}={asked!r} is not known; it is 'engine' (default) or 'process'.")
    return asked == "process"


def spins() -> bool:
    """Whether an engine's threads wait for work awake.

    TRTLLM_EXT_SPINNING is 1 (default: the next part of a run begins at once) or 0 (the cores are others' between two
    parts: for a process that has more to do beside the engine, such as a server, or a machine that has).
    Raises ConfigError for another value.
    """
    asked = os.environ.get(SPINNING_VARIABLE, "") or "1"
    if asked not in ("0", "1"):
        raise ConfigError(f"{SPINNING_VARIABLE}={asked!r} is not known; it is 1 (default) or 0.")
    return asked == "1"


def _quota() -> int:
    try:
        quota, period = _CGROUP_LIMIT.read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no such file, or "max": no limit
        return os.cpu_count() or 1
