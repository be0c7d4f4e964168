"""Graphs inside nodes: what an emitter puts aside while it collects one."""

from collections import ChainMap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# What each graph has of its own.
_OWN = ("_nodes", "_inputs", "_outputs", "_producer", "_descriptions")
# What was made in the graphs around is seen inside; what is made inside is not seen around.
_SEEN_INSIDE = ("_casts", "_reshaped", "_transposed", "_cast_key")


class Nesting:
    """The graphs that are open, outermost first; the state of the innermost is in the emitter's own attributes."""

    def __init__(self, emitter: Any) -> None:
        self._emitter = emitter
        # Of each graph but the innermost, its state; of each graph but the outermost, whether it runs repeatedly.
        self._around: list[dict[str, Any]] = []
        self._repeats: list[bool] = []

    def open(self, repeats: bool) -> None:
        """Begin a graph inside the current one. repeats: it is the body of a loop."""
        state = self._state()
        self._around.append(state)
        self._repeats.append(repeats)
        for name in _OWN:
            setattr(self._emitter, name, type(state[name])())
        for name in _SEEN_INSIDE:
            setattr(self._emitter, name, ChainMap({}, state[name]))

    def close(self) -> None:
        """Go back to the graph around the current one."""
        self._restore(self._around.pop())
        self._repeats.pop()

    @contextmanager
    def invariant(self, name: str | None) -> Iterator[None]:
        """Emit into the outermost graph where the value `name` is there and that need not wait for a branch.

        name: None for a constant. So what depends on it alone is computed once and not in each iteration.
        """
        depth = self._depth(name) if self._around else 0
        if depth == len(self._around):
            yield
            return
        current = self._state()
        self._restore(self._around[depth])
        try:
            yield
        finally:
            self._restore(current)

    def _depth(self, name: str | None) -> int:
        depth = len(self._around)
        while depth and self._repeats[depth - 1]:
            state = self._state() if depth == len(self._around) else self._around[depth]
            if name in state["_producer"] or any(name == info.name for info in state["_inputs"]):
                break
            depth -= 1
        return depth

    def _state(self) -> dict[str, Any]:
        return {name: getattr(self._emitter, name) for name in (*_OWN, *_SEEN_INSIDE)}

    def _restore(self, state: dict[str, Any]) -> None:
        for name, content in state.items():
            setattr(self._emitter, name, content)
