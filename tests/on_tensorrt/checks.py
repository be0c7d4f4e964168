"""What the scripts of checks share: a small model and its engines, refusals, and a table of cases."""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cases
import engines
from engines import RefusedError, difference
from small_models import config_of, inputs_of, limits_of

from trtllm_ext import backend
from trtllm_ext.errors import TrtllmExtError
from trtllm_ext.models import write_random_checkpoint

# Builds of the same network may choose other kernels, each with its own order of sums.
AGREE = 1e-3
_ALLOWED = {"float32": AGREE, "float16": 1e-2}


class Model:
    """A small checkpoint in a folder, its engines and what they give."""

    def __init__(self, folder: Path, name: str = "gpt2", dtype: str = "float32", seed: int = 1) -> None:
        self.folder, self.on = folder, cases.engine()
        self.config = config_of(name, dtype)
        self.allowed = _ALLOWED[dtype]
        self.checkpoint = folder / f"checkpoint{seed}"
        write_random_checkpoint(self.checkpoint, self.config, seed=seed)
        self.inputs = list(inputs_of(self.config))
        self.seconds = 0.0

    def build(self, name: str = "engine", *flags: str, on: str = "", **settings: Any) -> Path:
        given = {**limits_of(self.config), **settings}
        if (on or self.on) == "tensorrt":
            given.setdefault("tf32", False)
        directory, self.seconds = engines.build(
            self.checkpoint, self.folder / name, given, *flags, on=on or self.on
        )
        return directory

    def run(self, directory: Path, on: str = "") -> list[engines.Arrays]:
        return engines.run(directory, self.inputs, on=on or self.on)

    @functools.cached_property
    def right(self) -> list[engines.Arrays]:
        """What the embedded engine gives."""
        return self.run(self.build("right", on="embedded"), on="embedded")

    def check(self, directory: Path) -> str:
        """That an engine gives what is right; returns a sentence."""
        worst = max(
            difference(got, want)[0] for got, want in zip(self.run(directory), self.right, strict=True)
        )
        assert worst <= self.allowed, f"differs by {worst:.1e}"
        return f"right within {worst:.1e}"


class Checks(dict[str, cases.Case]):
    """Cases by name, entered one by one."""

    def enter(self, function: Callable[..., str], *arguments: Any, name: str = "") -> None:
        """A function that gets an empty folder, then these arguments, and tells in a text what was seen."""

        def run() -> cases.Line:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    return {"why": function(Path(folder), *arguments)}
                except RefusedError as sentence:
                    if engines.NO_KERNEL not in str(sentence):
                        raise
                    return {"came": "refused", "why": str(sentence)}

        self[name or function.__name__] = run


def refusal(function: Callable[[], Any], *words: str) -> str:
    """The sentence with which a thing is refused, which has these words; an AssertionError when it is done."""
    try:
        function()
    except (RefusedError, TrtllmExtError) as sentence:
        text = str(sentence)
        missing = [word for word in words if word.lower() not in text.lower()]
        assert not missing, f"refused without {missing}: {text}"
        return f"refused: {text}"
    raise AssertionError("it was not refused")


def has(name: str) -> bool:
    """Whether the library in use has something: `BuilderFlag.REFIT`, `IBuilderConfig.progress_monitor`."""
    holder, _, what = name.partition(".")
    owner = getattr(backend.tensorrt(), holder, None)
    return what in getattr(owner, "__members__", ()) or hasattr(owner, what)
