"""Every form of the library, and the sentence encoder, on TensorRT: built, saved, loaded by a fresh process and run.

    PYTHONPATH=.:tests python tests/on_tensorrt/forms_on_tensorrt.py FILE [--processes N] [...]

Each is compared with the embedded engine on the same checkpoint and inputs, once without and once with all taps; the
options and the lines of FILE are those of `cases`.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import cases
import engines
from small_models import ENCODERS, NAMES, config_of, inputs_of, limits_of

from trtllm_ext.models import write_random_checkpoint

# Largest difference, of a tensor's largest value. Of bfloat16: four roundings of half a unit in 2^-8 a residual block.
TOLERANCE = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 3e-2}


# What narrow types are rounded to anyway, and TensorRT's default, is worth turning off for float32 only.
EXACT: dict[str, dict[str, Any]] = {"float32": {"tf32": False}}


def form(name: str, dtype: str, **given: Any) -> cases.Line:
    """One model in one type. error, taps_error: the largest difference; taps_changed: from the engine without taps.

    given: settings of the build besides. "refused" is told when one of the two engines is; what the other gives is told
    too.
    """
    config = config_of(name, dtype)
    line: cases.Line = {"form": titled(name, given), "dtype": dtype}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, inputs = Path(folder, "checkpoint"), list(inputs_of(config))
        write_random_checkpoint(checkpoint, config, seed=1)
        settings = {**limits_of(config), **EXACT.get(dtype, {}), **given}

        def built(on: str, *taps: str) -> Path:
            directory = Path(folder, f"{on}{len(taps)}")
            wanted = settings if on == "tensorrt" else limits_of(config)
            _, seconds = engines.build(checkpoint, directory, wanted, *taps, on=on)
            if on == cases.engine():
                line["build_taps_s" if taps else "build_s"] = round(seconds, 1)
            return directory

        def result(on: str, *taps: str) -> list[engines.Arrays] | None:
            try:
                return engines.run(built(on, *taps), inputs, on=on)
            except engines.RefusedError as sentence:
                if on != cases.engine():
                    raise
                refused.append(f"{'with' if taps else 'without'} taps: {sentence}")
                return None

        refused: list[str] = []
        every = ("--taps", "*")
        plain, tapped = result(cases.engine()), result(cases.engine(), *every)
        if plain is not None:
            line["error"], line["worst"] = _worst(plain, result("embedded"))
        if tapped is not None:
            want = result("embedded", *every)
            line["taps"] = len(tapped[0])
            line["taps_error"], line["taps_worst"] = _worst(tapped, want)
        if plain is not None and tapped is not None:
            line["taps_changed"] = _worst([{key: one[key] for key in plain[0]} for one in tapped], plain)[0]
    allowed = TOLERANCE[dtype]
    same = max(line.get("error", 0), line.get("taps_error", 0)) <= allowed
    came = "wrong" if not same else "refused" if refused else "ok"
    return {**line, "came": came, "why": "; ".join([*refused, *([] if same else [f"more than {allowed:g}"])])}


def titled(name: str, given: dict[str, Any]) -> str:
    return " ".join([name, *(f"{setting}={value}" for setting, value in given.items())])


def _worst(got: list[engines.Arrays], want: list[engines.Arrays] | None) -> tuple[float, str]:
    assert want is not None
    return max(engines.difference(one, other) for one, other in zip(got, want, strict=True))


CASES = {
    f"{dtype} {name}": partial(form, name, dtype)
    for dtype, names in (
        ("float32", NAMES),
        ("float16", NAMES),
        ("bfloat16", ["gpt2", "llama_swiglu", "mixture_softmax_shared", "encoder, mean of tokens"]),
    )
    for name in names
}

# TensorRT 8.6 was seen to take a minute and more for these, unless told not to choose among kernels.
SLOW = (
    "llama_swiglu",
    "geglu_tanh",
    "gemma2_sandwich",
    "olmo2_branch",
    "granite_scaled",
    "tanh_gate",
    "float32_stream",
    "hyper_static",
    "hyper_manifold",
    "few iterations",
    "sigmoid",
)
QUICK: dict[str, Any] = {"builder_optimization_level": 0}
for dtype in ("float32", "float16"):
    for name in SLOW:
        CASES[f"{dtype} {titled(name, QUICK)}"] = partial(form, name, dtype, **QUICK)

# What 8.6 refuses of these it refuses at level 0 as well; products that float32 parts of a float16 network have are all
# that TF32 is about there.
for name in ENCODERS:
    CASES[f"float16 {titled(name, QUICK)}"] = partial(form, name, "float16", **QUICK)
    CASES[f"float16 {titled(name, EXACT['float32'])}"] = partial(form, name, "float16", **EXACT["float32"])

if __name__ == "__main__":
    sys.exit(cases.main(__file__, CASES))
