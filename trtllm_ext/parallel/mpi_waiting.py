"""Waiting for other ranks without keeping a core busy, where they may be away for long.

A call of MPI that blocks stays awake until the others have come. Within a run they come at once. Between runs it may be
until a service's next request, and where there are more ranks than cores, who waits awake keeps the others from coming.
"""

from __future__ import annotations

import time
from typing import Any

AWAKE_S = 1e-3
# Asleep for a tenth of the time that has passed, between these.
SHORTEST_SLEEP_S = 5e-5
LONGEST_SLEEP_S = 2e-3
LOOKS = 4  # after each sleep


def wait_asleep(request: Any) -> None:
    """Return when `request`, an mpi4py Request for a short message, is complete."""
    begin = time.perf_counter()
    while not _is_complete(request):
        passed = time.perf_counter() - begin
        if passed > AWAKE_S:
            time.sleep(min(max(passed / 10, SHORTEST_SLEEP_S), LONGEST_SLEEP_S))


def _is_complete(request: Any) -> bool:
    # A look takes an operation one step further, of which it has several, and none should wait for another sleep:
    # measured for two ranks, a run after a pause began 6 ms late with one look, 4 ms with four.
    return any(request.Test() for _ in range(LOOKS))
