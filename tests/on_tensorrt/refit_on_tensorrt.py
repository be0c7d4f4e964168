"""Other weights for an engine that is built, and an engine built again from what it says of itself, on TensorRT.

    PYTHONPATH=.:tests python tests/on_tensorrt/refit_on_tensorrt.py FILE [--processes N] [...]

A case's line has `why`: what was seen. What the library in use lacks has to be refused by a sentence, which is told.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import cases
import planted
from checks import Checks, Model, has, refusal
from engines import command, difference
from small_models import ENCODERS

import trtllm_ext as tx
from trtllm_ext import backend
from trtllm_ext.runtime.trt_log import recording_logger

CASES = Checks()


def refitted(folder: Path, form: str, dtype: str, **settings: Any) -> str:
    """An engine with the weights of another checkpoint gives what an engine that was built of it gives."""
    first, other = Model(folder, form, dtype), Model(folder, form, dtype, seed=2)
    source, target = first.build("first", use_refit=True, **settings), folder / "refitted"
    seconds = first.seconds
    given = ("--engine_dir", source, "--checkpoint_dir", other.checkpoint, "--output_dir", target)
    command("refit", *given, on=first.on)
    before, after = first.run(source), other.run(target)
    changed = max(difference(one, two)[0] for one, two in zip(after, before, strict=True))
    assert changed > 0.1, f"the weights changed the result by {changed:.1e} only"
    built = other.run(other.build("built", **settings))
    apart = max(difference(one, two)[0] for one, two in zip(after, built, strict=True))
    still = first.check(source)
    assert max(apart, _off(other, after)) <= first.allowed, f"off by {apart:.1e} and {_off(other, after):.1e}"
    return (
        f"{apart:.1e} from an engine built of them, {_off(other, after):.1e} from right; the first is {still}, "
        f"built in {seconds:.1f} s"
    )


def _off(model: Model, got: list[dict[str, object]]) -> float:
    return max(difference(one, other)[0] for one, other in zip(got, model.right, strict=True))


def names(folder: Path) -> str:
    """Weights are known by the checkpoint's names; 8.6 names the others, too, by layer and role."""
    model, trt = Model(folder), backend.tensorrt()
    directory = model.build(use_refit=True)
    with tx.Session.from_engine_dir(directory) as session:
        refitter = trt.Refitter(session.engine, recording_logger(trt).given)
        unnamed = {"", *(f"{layer} {role.name}" for layer, role in zip(*refitter.get_all(), strict=True))}
        known = set(refitter.get_all_weights()) - unnamed
    stored = set(tx.checkpoint.load_checkpoint(model.checkpoint).weights)
    assert "transformer.layers.1.mlp.fc.weight" in known, sorted(known)
    assert known <= stored, sorted(known - stored)
    return f"{len(known)} of the checkpoint's {len(stored)} weights, such as {sorted(known)[:3]}"


def not_refittable(folder: Path) -> str:
    model = Model(folder)
    given = (
        "--engine_dir",
        model.build(),
        "--checkpoint_dir",
        model.checkpoint,
        "--output_dir",
        folder / "out",
    )
    return refusal(lambda: command("refit", *given, on=model.on), "use_refit")


def of_another_model(folder: Path) -> str:
    model, other = Model(folder), Model(folder, "bert", seed=2)
    source = model.build(use_refit=True)
    given = ("--engine_dir", source, "--checkpoint_dir", other.checkpoint, "--output_dir", folder / "out")
    return refusal(lambda: command("refit", *given, on=model.on), "another model")


def stripped(folder: Path) -> str:
    """An engine without weights, filled by a refit; TensorRT 8.6 has none."""
    model = Model(folder)
    if not has("BuilderFlag.STRIP_PLAN"):
        return refusal(lambda: model.build(use_strip_plan=True), "use_strip_plan")
    source, target = model.build(use_strip_plan=True), folder / "filled"
    empty = refusal(lambda: model.run(source), "no weights")
    given = ("--engine_dir", source, "--checkpoint_dir", model.checkpoint, "--output_dir", target)
    command("refit", *given, on=model.on)
    return f"{empty} | filled: {model.check(target)}"


def from_engine(folder: Path) -> str:
    """An engine of another version says how to be built again, and is."""
    model = Model(folder)
    directory = model.build("old", profiling_verbosity="detailed")
    if model.on == "tensorrt":
        planted.resealed(directory, engine_version="8.5.3")
        said = refusal(lambda: model.run(directory), "8.5.3")
    else:
        said = "the embedded engine's plans run in every version"
    target = folder / "new"
    given = ("--from-engine", directory, "--checkpoint_dir", model.checkpoint, "--output_dir", target)
    command("build", *given, on=model.on)
    return f"{said} | {model.check(target)}"


FORMS = ("gpt2", "llama_swiglu", "mixture_softmax_shared", "gemma2_sandwich", "hyper_dynamic", *ENCODERS)
for dtype in ("float32", "float16"):
    for form in FORMS:
        CASES.enter(refitted, form, dtype, name=f"{dtype} {form}: refitted")
        # TensorRT 8.6 takes minutes for some of these, unless told not to choose among kernels.
        quick = partial(refitted, builder_optimization_level=0)
        CASES.enter(quick, form, dtype, name=f"{dtype} {form} builder_optimization_level=0: refitted")
for each in (names, not_refittable, of_another_model, stripped, from_engine):
    CASES.enter(each)

if __name__ == "__main__":
    sys.exit(cases.main(__file__, CASES))
