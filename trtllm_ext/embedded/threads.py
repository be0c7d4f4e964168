"""How many threads this process may use."""

import math
import os
from pathlib import Path

from trtllm_ext.errors import ConfigError

THREADS_VARIABLE = "TRTLLM_EXT_NUM_THREADS"
_CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def num_threads() -> int:
    """TRTLLM_EXT_NUM_THREADS if it is set, else the number of cores that this process may use.

    Cores are those of the process's affinity mask, further limited by the processor quota of its control group.
    Raises ConfigError if the variable is not a positive integer.
    """
    asked = os.environ.get(THREADS_VARIABLE, "")
    if asked:
        if not asked.isascii() or not asked.isdigit() or not 1 <= int(asked) <= 1024:
            raise ConfigError(
                f"{THREADS_VARIABLE}={asked!r} is not a number of threads. Set it to 1 .. 1024, or unset it."
            )
        return int(asked)
    return max(1, min(len(os.sched_getaffinity(0)), _quota()))


def _quota() -> int:
    try:
        quota, period = _CGROUP_LIMIT.read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no such file, or "max": no limit
        return os.cpu_count() or 1
