"""How a build advances, told to a progress monitor."""

from collections.abc import Iterator
from contextlib import contextmanager

from trtllm_ext.embedded.brief import brief
from trtllm_ext.embedded.surface.interfaces import IProgressMonitor
from trtllm_ext.errors import BuildError


class Progress:
    """Phases within phases; without a monitor nobody is told."""

    def __init__(self, monitor: IProgressMonitor | None) -> None:
        self._monitor = monitor
        # Name and finished steps of each phase that has begun and not ended.
        self._open: list[tuple[str, int]] = []

    @contextmanager
    def phase(self, name: str, num_steps: int) -> Iterator[None]:
        """A phase of at least one step, inside the innermost one that is open."""
        parent = self._open[-1][0] if self._open else None
        self._open.append((name, 0))
        if self._monitor is not None:
            self._tell("phase_start", name, parent, max(num_steps, 1))
        try:
            yield
        finally:
            self._open.pop()
            if self._monitor is not None:
                self._tell("phase_finish", name)

    def step(self) -> None:
        """A step of the innermost phase is done. Raises BuildError if the monitor ends the build, or fails."""
        name, step = self._open.pop()
        self._open.append((name, step + 1))
        if self._monitor is not None and not self._tell("step_complete", name, step):
            raise BuildError(f"the progress monitor ended the build after step {step} of phase {name!r}.")

    def _tell(self, method: str, *arguments: object) -> object:
        try:
            return getattr(self._monitor, method)(*arguments)
        except Exception as error:  # the application's code may raise anything
            raise BuildError(f"the progress monitor failed in {method}: {brief(error)}") from error
