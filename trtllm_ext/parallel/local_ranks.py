"""A function called once a rank, by threads of this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from trtllm_ext.parallel.communicator import Communicator
from trtllm_ext.parallel.local import LocalCommunicator, LocalWorld

Result = TypeVar("Result")


def run_ranks(size: int, function: Callable[[Communicator], Result], timeout: float = 10.0) -> list[Result]:
    """Call `function(communicator)` for each rank of a LocalWorld, a thread each; their results by rank.

    Raises the error of the rank that failed first; the others' RankError is only its echo. A rank that has not
    returned `timeout` seconds after another one failed is left behind.
    """
    world = LocalWorld(size, timeout)
    results: dict[int, Result] = {}
    errors: dict[int, BaseException] = {}

    def run(communicator: LocalCommunicator) -> None:
        rank = communicator.rank
        try:
            results[rank] = function(communicator)
        except BaseException as error:
            errors[rank] = error
            communicator.fail(f"{type(error).__name__}: {error}")
        finally:
            communicator.close()

    threads = [
        threading.Thread(target=run, args=(communicator,), name=f"rank {communicator.rank}", daemon=True)
        for communicator in world.communicators
    ]
    for thread in threads:
        thread.start()
    deadline = None
    for thread in threads:
        while thread.is_alive() and (deadline is None or time.monotonic() < deadline):
            thread.join(0.05 if deadline is None else max(0.0, deadline - time.monotonic()))
            if errors and deadline is None:
                deadline = time.monotonic() + timeout
    if errors:
        first = world.failed_rank if world.failed_rank in errors else next(iter(errors))
        raise errors[first]
    return [results[rank] for rank in range(size)]
