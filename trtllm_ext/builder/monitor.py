"""The phases of a build, as TensorRT tells them, on their way to whoever waits for it."""

import functools
from collections.abc import Callable
from typing import Any

# Told the name of each phase as it begins, and again after each of its steps; "" for one that is within no other.
Teller = Callable[[str], None]


def can_be_watched(trt: Any, config: Any) -> bool:
    """Whether the library tells how a build advances; TensorRT 8.6 does not."""
    return hasattr(trt, "IProgressMonitor") and hasattr(config, "progress_monitor")


def progress_monitor(trt: Any, tell: Teller) -> Any:
    """A `trt.IProgressMonitor` that passes phases on to `tell`.

    What `tell` raises, and an interrupt that comes meanwhile, ends the build; it is kept as `problem`, since no Python
    exception should travel through TensorRT's own code.
    """
    return _monitor_class(trt)(tell)


@functools.cache
def _monitor_class(trt: Any) -> type:
    class Monitor(trt.IProgressMonitor):
        """Not aware of threads: TensorRT may call from several, and each call passes one text on."""

        def __init__(self, tell: Teller) -> None:
            trt.IProgressMonitor.__init__(self)
            self._tell = tell
            self._outermost: set[str] = set()
            self.problem: BaseException | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                self._outermost.add(phase_name)
            self._pass_on(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return self._pass_on(phase_name)

        def phase_finish(self, phase_name: str) -> None:
            pass

        def _pass_on(self, phase_name: str) -> bool:
            """Whether the build is to go on."""
            if self.problem is None:
                try:
                    self._tell("" if phase_name in self._outermost else phase_name)
                except BaseException as problem:
                    self.problem = problem
            return self.problem is None

    return Monitor
