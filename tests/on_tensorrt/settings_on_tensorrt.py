"""What a build can be asked for on TensorRT besides the forms: settings, and the timing cache.

    PYTHONPATH=.:tests python tests/on_tensorrt/settings_on_tensorrt.py FILE [--processes N] [...]

A case's line has `why`: what was seen. What the library in use lacks has to be refused by a sentence, which is told.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cases
import planted
from checks import Checks, Model, has, refusal
from engines import RefusedError, build, command, difference
from small_models import limits_of, stack

import trtllm_ext as tx
from trtllm_ext import backend
from trtllm_ext.models import write_random_checkpoint
from trtllm_ext.parallel import Mapping
from trtllm_ext.runtime.loading import HOST_CODE_VARIABLE

CASES = Checks()


def setting(folder: Path, needs: str, settings: dict[str, Any]) -> str:
    model = Model(folder)
    if needs and not has(needs):
        return refusal(lambda: model.build(**settings))
    return f"{model.check(model.build(**settings))}; built in {model.seconds:.1f} s"


for title, needs, settings in (
    (
        "builder_optimization_level 0",
        "IBuilderConfig.builder_optimization_level",
        {"builder_optimization_level": 0},
    ),
    (
        "builder_optimization_level 5",
        "IBuilderConfig.builder_optimization_level",
        {"builder_optimization_level": 5},
    ),
    (
        "hardware_compatibility_level ampere_plus",
        "HardwareCompatibilityLevel.AMPERE_PLUS",
        {"hardware_compatibility_level": "ampere_plus"},
    ),
    (
        "hardware_compatibility_level same_compute_capability",
        "HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY",
        {"hardware_compatibility_level": "same_compute_capability"},
    ),
    ("memory_pool_limits workspace 1 GiB", "", {"memory_pool_limits": {"workspace": 1 << 30}}),
    (
        "memory_pool_limits tactic_shared_memory",
        "MemoryPoolType.TACTIC_SHARED_MEMORY",
        {"memory_pool_limits": {"tactic_shared_memory": 1 << 16}},
    ),
    ("weight_sparsity", "BuilderFlag.SPARSE_WEIGHTS", {"weight_sparsity": True}),
    ("weight_streaming", "BuilderFlag.WEIGHT_STREAMING", {"weight_streaming": True}),
    ("tf32 left on", "", {"tf32": True}),
):
    CASES.enter(setting, needs, settings, name=title)


def small_workspace(folder: Path) -> str:
    """Too little memory for kernels is refused by a sentence, or enough."""
    model = Model(folder)
    try:
        return model.check(model.build(memory_pool_limits={"workspace": 1 << 16}))
    except RefusedError as sentence:
        assert "memory_pool_limits" in str(sentence), sentence
        return f"refused: {sentence}"


def version_compatible(folder: Path) -> str:
    """TensorRT 8.6 needs its lean runtime's library for it, which is a package of its own."""
    model = Model(folder)
    if not has("BuilderFlag.VERSION_COMPATIBLE"):
        return refusal(lambda: model.build(version_compatible=True))
    os.environ[HOST_CODE_VARIABLE] = "1"  # such an engine brings the lean runtime along
    try:
        return model.check(model.build(version_compatible=True))
    except RefusedError as sentence:
        return f"refused: {sentence}"


def profiling_verbosity(folder: Path) -> str:
    model, told = Model(folder), {}
    for verbosity in ("none", "layer_names_only", "detailed"):
        directory = model.build(verbosity, profiling_verbosity=verbosity)
        told[verbosity] = len(command("inspect", "--engine_dir", directory, "--json", on=model.on))
        model.check(directory)
    assert told["none"] < told["detailed"], told
    return f"characters that inspect tells: {told}"


def progress(folder: Path) -> str:
    """Where TensorRT tells of phases they arrive; where it does not, of bytes written."""
    model, told = Model(folder), []
    limits = tx.BuildConfig(**limits_of(model.config))
    tx.build_engine_dir(
        model.checkpoint, folder / "engine", limits, progress=lambda phase, done: told.append(phase)
    )
    phases = list(dict.fromkeys(told))
    assert phases
    return f"IProgressMonitor: {hasattr(backend.tensorrt(), 'IProgressMonitor')}; told of {phases[:12]}"


def sharded(folder: Path) -> str:
    """An engine of two ranks, for which TensorRT 8.6 has no collectives."""
    config = replace(stack("gpt2", "float32"), mapping=Mapping(world_size=2, tp_size=2))
    write_random_checkpoint(folder / "checkpoint", config)
    if cases.engine() == "embedded":
        return "the embedded engine runs several ranks"
    given = limits_of(config)
    return refusal(lambda: build(folder / "checkpoint", folder / "engine", given, on=cases.engine()))


for each in (small_workspace, version_compatible, profiling_verbosity, progress, sharded):
    CASES.enter(each)


def timing_cache(folder: Path) -> str:
    model, cache = Model(folder, "gpt2"), folder / "first.cache"
    first = model.build("first", output_timing_cache=str(cache), **_LARGER)
    took = model.seconds
    size = cache.stat().st_size
    second = model.build(
        "second", input_timing_cache=str(cache), output_timing_cache=str(folder / "second.cache"), **_LARGER
    )
    model.check(first)
    same = difference(model.run(second)[0], model.run(first)[0])[0]
    assert same == 0, f"the second build differs by {same:.1e}"
    if model.on == "tensorrt":
        assert model.seconds < took, f"{took:.1f} s, then {model.seconds:.1f} s"
    return f"{size} bytes; built in {took:.1f} s, then in {model.seconds:.1f} s, the same numbers"


def timing_cache_damaged(folder: Path, change: Callable[[bytearray], bytearray]) -> str:
    model, cache = Model(folder), folder / "cache"
    model.build("first", output_timing_cache=str(cache))
    cache.write_bytes(change(bytearray(cache.read_bytes()) or bytearray(b"\0" * 64)))
    settings = {"input_timing_cache": str(cache), "output_timing_cache": str(folder / "next")}
    try:
        return f"left aside: {model.check(model.build('second', **settings))}"
    except RefusedError as sentence:
        return f"refused: {sentence}"


# Another size of profile makes TensorRT measure for longer.
_LARGER = {"max_num_tokens": 4096, "opt_num_tokens": 1024, "builder_optimization_level": 4}
CASES.enter(timing_cache)
CASES.enter(timing_cache_damaged, planted.noise, name="timing_cache of noise")
CASES.enter(timing_cache_damaged, planted.cut(0.6), name="timing_cache cut short")
CASES.enter(timing_cache_damaged, planted.flipped(0.5), name="timing_cache with a flipped bit")

if __name__ == "__main__":
    sys.exit(cases.main(__file__, CASES))
