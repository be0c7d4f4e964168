"""Names of layers: `<RootClass>/<attribute path>/<function>_L<line>/.../<LAYERTYPE>[_<operation>]_<n>`.

TensorRT-LLM's pattern: the module that is being called, then the functions between its `forward` and the layer, with
the lines they were in. A profile, a log or an error that names a layer so points to the code that made it.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

MAX_FRAMES = 10

_GRAPH = str(Path(__file__).parent) + os.sep
_PLUMBING = tuple(
    str(Path(name)) for name in ("network.py", "naming.py", "layer.py", "functional/operands.py")
)

_WITH_OPERATION = ("ELEMENTWISE", "UNARY", "REDUCE")


class ModulePath:
    """The stack of modules that are being called, and what each is called relative to the first one."""

    def __init__(self) -> None:
        self._stack: list[str] = []
        self._names: dict[int, str] = {}
        self._root: Any = None

    @property
    def current(self) -> str:
        """Path of the innermost module in its `forward`; empty outside of any."""
        return self._stack[-1] if self._stack else ""

    @contextmanager
    def entered(self, module: Any) -> Iterator[None]:
        """`module` is being called inside the block."""
        if not self._stack and id(module) not in self._names:
            self._root = module  # kept alive, so that no id is reused
            root = type(module).__name__
            self._names = {
                id(child): "/".join([root, *name.split(".")]) if name else root
                for name, child in module.named_modules()
            }
        # A module that is no registered child (a Residual around one, say) is named by its class.
        name = self._names.get(id(module)) or f"{self.current}/{type(module).__name__}"
        self._stack.append(name)
        try:
            yield
        finally:
            self._stack.pop()

    @contextmanager
    def at(self, place: str) -> Iterator[None]:
        """Layers that are made inside the block belong to `place`, a path that was `current` before."""
        self._stack.append(place)
        try:
            yield
        finally:
            self._stack.pop()

    def dotted_name(self, module: Any) -> str | None:
        """Name of a module in the module called first; None if it is not one of its."""
        path = self._names.get(id(module))
        return None if path is None else ".".join(path.split("/")[1:])

    def parameter_name(self, parameter: Any) -> str | None:
        """Dotted name of a parameter in the module called first; None if it is not one of its."""
        if self._root is None:
            return None
        for name, known in self._root.named_parameters():
            if known is parameter:
                return str(name)
        return None


def layer_kind(layer: Any) -> str:
    """`ELEMENTWISE`, `SHUFFLE`, ...; an activation layer gives its function, since its `type` hides the layer's."""
    return str(layer.type).rpartition(".")[2]


def layer_label(layer: Any) -> str:
    """The last part of a layer's name, without its number: `ELEMENTWISE_SUM`, `SHUFFLE`, `RELU`."""
    kind = layer_kind(layer)
    return f"{kind}_{str(layer.op).rpartition('.')[2]}" if kind in _WITH_OPERATION else kind


def calls(stop: CodeType | None) -> list[str]:
    """`function_L<line>` from the outermost call to the innermost.

    stop: the function that opened the net_guard; it and what called it are left out, and so are our own helpers.
    """
    found: list[str] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and len(found) < MAX_FRAMES:
        code = frame.f_code
        if code is stop or code.co_name in ("forward", "<module>"):
            break
        if not _is_helper(code):
            found.append(f"{code.co_name}_L{frame.f_lineno}")
        frame = frame.f_back
    return found[::-1]


def _is_helper(code: CodeType) -> bool:
    is_plumbing = _is_plumbing(code.co_filename)
    if is_plumbing is None:
        return False
    name = code.co_name
    return is_plumbing or (name.startswith(("_", "<")) and not name.endswith("__"))


@cache
def _is_plumbing(filename: str) -> bool | None:
    """Whether all of a file of this folder is; None for another file."""
    return filename.removeprefix(_GRAPH) in _PLUMBING if filename.startswith(_GRAPH) else None
