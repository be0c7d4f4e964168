"""Engines that are damaged, or from elsewhere, on TensorRT: refused by a sentence, and never a crash.

    PYTHONPATH=.:tests python tests/on_tensorrt/wrong_engines_on_tensorrt.py FILE [--processes N] [...]

A case's line has `why`: what was seen. What the library in use lacks has to be refused by a sentence, which is told.
"""

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cases
import engines
import planted
from checks import Checks, Model, refusal
from engines import RefusedError, difference

import trtllm_ext as tx

CASES = Checks()


def damage(folder: Path, change: Callable[[bytearray], bytearray]) -> str:
    """Damage that the envelope finds before the library sees a byte."""
    model = Model(folder)
    directory = model.build()
    planted.damaged(directory, change)
    return refusal(lambda: model.run(directory), "damaged" if change is not CUT else "truncated")


def sealed_damage(folder: Path, change: Callable[[bytearray], bytearray]) -> str:
    """Damage that the envelope vouches for, so that the library meets it: no crash."""
    model = Model(folder)
    directory = model.build()
    planted.damaged(directory, change, seal=True)
    try:
        got = model.run(directory)
    except RefusedError as sentence:
        return f"refused: {sentence}"
    worst = max(_spread(one, other) for one, other in zip(got, model.right, strict=True))
    return f"loaded and ran; differs from right by {worst:.1e}"


def _spread(got: engines.Arrays, want: engines.Arrays) -> float:
    with contextlib.suppress(AssertionError):
        return difference(got, want)[0]
    return float("inf")


CUT = planted.cut(0.5)
for title, change in (
    ("cut in half", CUT),
    ("a flipped bit at the start", planted.flipped(0.0)),
    ("a flipped bit in the middle", planted.flipped(0.5)),
    ("a flipped bit at the end", planted.flipped(1.0)),
):
    CASES.enter(damage, change, name=f"engine with {title}")
for title, change in (
    ("cut in half", CUT),
    ("without its last bytes", planted.cut(0.999)),
    ("of noise", planted.noise),
    ("of no bytes but one", planted.cut(1e-9)),
    *(
        (f"with a flipped bit at {share:.4f}", planted.flipped(share))
        for share in (0, 1e-4, 0.01, 0.1, 0.3, 0.7, 1)
    ),
):
    CASES.enter(sealed_damage, change, name=f"engine {title}, vouched for")


def other(folder: Path, words: dict[str, Any], *expected: str) -> str:
    """An engine whose envelope says that it is from elsewhere."""
    model = Model(folder)
    directory = model.build()
    planted.resealed(directory, **words)
    if model.on == "embedded":  # a plan file has a format version of its own, and runs on any processor
        return model.check(directory)
    return refusal(lambda: model.run(directory), *expected)


CASES.enter(other, {"engine_version": "8.5.3"}, "8.5.3", name="engine of another TensorRT")
CASES.enter(other, {"compute_capability": "8.0"}, "8.0", name="engine for another device")


def for_newer_devices(folder: Path) -> str:
    """What was built on an older device for newer ones, too, is taken here."""
    model = Model(folder)
    directory = model.build(hardware_compatibility_level="ampere_plus")
    planted.resealed(directory, compute_capability="8.0" if model.on == "tensorrt" else "cpu")
    return model.check(directory)


CASES.enter(for_newer_devices)


def other_kind(folder: Path, built_on: str, run_on: str) -> str:
    """An engine of the one kind in a process of the other: by its envelope, and by its bytes alone."""
    model = Model(folder)
    directory = model.build(on=built_on)
    if cases.engine() == "embedded" and built_on == run_on:
        return model.check(directory)
    said = refusal(lambda: model.run(directory, on=run_on), built_on)
    words = {"engine_kind": run_on}
    if run_on == "tensorrt":
        own = model.build("own", on="tensorrt")
        with tx.Session.from_engine_dir(own) as session:
            assert session.engine_dir is not None
            mine = session.engine_dir.envelope
        words |= {"engine_version": mine.engine_version, "compute_capability": mine.compute_capability}
    else:
        words["compute_capability"] = "cpu"
    planted.resealed(directory, **words)
    return (
        f"{said} | with an envelope that claims otherwise, {refusal(lambda: model.run(directory, on=run_on))}"
    )


def _kinds(folder: Path, built_on: str, run_on: str) -> str:
    here = cases.engine()
    if here == "embedded":  # the dry run has only the one
        built_on = run_on = here
    return other_kind(folder, built_on, run_on)


CASES.enter(_kinds, "embedded", "tensorrt", name="engine of the embedded kind in TensorRT")
CASES.enter(_kinds, "tensorrt", "embedded", name="engine of TensorRT in the embedded kind")

if __name__ == "__main__":
    sys.exit(cases.main(__file__, CASES))
