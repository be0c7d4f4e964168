"""Engines with one fault each, on TensorRT: `verify` finds it at the right place, and finds none in a right engine.

    PYTHONPATH=.:tests python tests/on_tensorrt/faults_on_tensorrt.py FILE [--processes N] [...]

A case's line has `why`: what verify says.
"""

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cases
import numpy as np
from checks import Checks
from engines import RefusedError, build, command, timings
from small_models import ENCODERS, config_of, limits_of, stack

import trtllm_ext as tx
from trtllm_ext.checkpoint import load_checkpoint, write_checkpoint
from trtllm_ext.layers import FeedForward
from trtllm_ext.models import model_from_checkpoint, write_random_checkpoint
from trtllm_ext.verify import Report, verify_engine

CASES = Checks()
# Which layer of how many is wrong, and what else its activation could be.
WRONG, LAYERS = 2, 4
OTHER = {"gelu_tanh": "relu", "silu": "gelu_tanh", "relu": "tanh"}
TAPS = {"taps": ["*"]}
# Forms for which TensorRT 8.6 makes kernels at length, unless told not to.
LEVELS = dict.fromkeys(("llama_swiglu", "gemma2_sandwich", "hyper_manifold"), 0)


def checkpoint_of(folder: Path, form: str, dtype: str) -> Path:
    config = config_of(form, dtype) if form in ENCODERS else stack(form, dtype, LAYERS)
    write_random_checkpoint(folder / "checkpoint", config, seed=1)
    return folder / "checkpoint"


def with_one_weight_changed(checkpoint: Path, folder: Path) -> tuple[Path, str]:
    """Another checkpoint, in which one number of one matrix is another; and the matrix's name."""
    loaded = load_checkpoint(checkpoint)
    ending = f"layers.{WRONG}.mlp.proj.weight"
    name = next(each for each in loaded.weights if each.endswith(ending))
    values = {each: np.array(value) for each, value in loaded.weights.items()}
    values[name].flat[values[name].size // 3] += 1
    write_checkpoint(folder, loaded.config, lambda each, shape: iter([values[each]]))
    return folder, name


def limits(checkpoint: Path, **settings: Any) -> dict[str, Any]:
    given = {**limits_of(load_checkpoint(checkpoint).config), **settings}
    return given if cases.engine() == "embedded" else {**timings(), **given, "tf32": False}


def level(form: str) -> dict[str, int]:
    return {"builder_optimization_level": LEVELS[form]} if form in LEVELS else {}


def said(report: Report) -> str:
    """What a report says, in one text."""
    worst = max((row.alone for row in report.rows if row.alone is not None), default=0.0)
    bisected = report.bisection
    more = "" if bisected is None else f"; tapping changed outputs by {bisected.changed_by:.1e}"
    return (
        f"sublayer {report.sublayer}, layer {report.layer}, largest error {worst:.1e}{more}: {report.verdict}"
    )


def right(folder: Path, form: str, dtype: str, bisect: bool) -> str:
    """A right engine passes, also by the command."""
    checkpoint = checkpoint_of(folder, form, dtype)
    settings = limits(checkpoint, **level(form)) if bisect else limits(checkpoint, **TAPS, **level(form))
    directory, _ = build(checkpoint, folder / "engine", settings, on=cases.engine())
    report = verify_engine(directory, checkpoint, bisect=bisect)
    assert report.is_right, said(report)
    given = ("--engine_dir", directory, "--checkpoint_dir", checkpoint)
    command("verify", *given, *(["--bisect"] if bisect else []), on=cases.engine())
    return said(report)


def wrong_weight(folder: Path, form: str, dtype: str, bisect: bool) -> str:
    """An engine that was built of a checkpoint in which one number is another."""
    checkpoint = checkpoint_of(folder, form, dtype)
    changed, name = with_one_weight_changed(checkpoint, folder / "changed")
    settings = limits(changed, **level(form)) if bisect else limits(changed, **TAPS, **level(form))
    directory, _ = build(changed, folder / "engine", settings, on=cases.engine())
    report = verify_engine(directory, checkpoint, bisect=bisect)
    assert not report.is_right, "the fault was not found"
    if not bisect:  # without taps only the whole can be seen to be wrong
        assert report.sublayer and f"layers.{WRONG}" in report.sublayer, said(report)
    given = ("--engine_dir", directory, "--checkpoint_dir", checkpoint)
    try:
        command("verify", *given, on=cases.engine())
    except RefusedError as sentence:
        return f"{name}: {said(report)} | the command: {sentence}"
    raise AssertionError("the command found nothing")


def wrong_activation(folder: Path, form: str, dtype: str, always: bool) -> str:
    """An engine in which one layer's activation is another; with `always` the code stays so while it is verified."""
    checkpoint = checkpoint_of(folder, form, dtype)
    settings = tx.BuildConfig(**limits(checkpoint, **TAPS, **level(form)))
    with activation_swapped():
        tx.build(model_from_checkpoint(checkpoint), settings).save(folder / "engine")
        if always:
            report = verify_engine(folder / "engine", checkpoint, bisect=True)
            assert report.network is not None and f"layers.{WRONG}" in report.network.sublayer, said(report)
    if not always:
        report = verify_engine(folder / "engine", checkpoint, bisect=True)
    assert not report.is_right, "the fault was not found"
    assert report.sublayer and f"layers.{WRONG}" in report.sublayer, said(report)
    return said(report)


@contextmanager
def activation_swapped() -> Iterator[None]:
    """Meanwhile every model's feed-forward of layer WRONG has another activation than its contract says."""
    original, made = FeedForward.__init__, 0

    @functools.wraps(original)
    def init(self: FeedForward, *arguments: Any, **options: Any) -> None:
        nonlocal made
        original(self, *arguments, **options)
        if made % LAYERS == WRONG:
            self.hidden_act = OTHER[self.hidden_act]
        made += 1

    FeedForward.__init__ = init  # type: ignore[method-assign]
    try:
        yield
    finally:
        FeedForward.__init__ = original  # type: ignore[method-assign]


def enter(function: Callable[..., str], title: str, forms: list[str], *rest: Any) -> None:
    for dtype in ("float32", "float16"):
        for form in forms:
            CASES.enter(function, form, dtype, *rest, name=f"{dtype} {form}: {title}")


enter(
    right,
    "right, with taps",
    ["gpt2", "llama_swiglu", "mixture_softmax_shared", "hyper_dynamic", *ENCODERS],
    False,
)
enter(right, "right, bisected", ["gpt2", "llama_swiglu"], True)
enter(
    wrong_weight, "one weight changed", ["gpt2", "llama_swiglu", "gemma2_sandwich", "hyper_manifold"], False
)
enter(wrong_weight, "one weight changed, without taps, bisected", ["gpt2"], True)
enter(wrong_activation, "one activation swapped at the build", ["gpt2", "llama_swiglu"], False)
enter(wrong_activation, "one activation swapped in the code", ["gpt2", "llama_swiglu"], True)

if __name__ == "__main__":
    sys.exit(cases.main(__file__, CASES))
