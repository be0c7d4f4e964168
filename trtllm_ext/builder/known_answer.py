"""The known answer of an engine of several ranks: what all of them, tried in one process, give for a small input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trtllm_ext.builder.engine import EngineConfig
from trtllm_ext.errors import BuildError, TrtllmExtError
from trtllm_ext.runtime.atomic import write_errors
from trtllm_ext.runtime.dtypes import NUMPY_DTYPES, TORCH_DTYPES
from trtllm_ext.runtime.engine_dir import EngineDir
from trtllm_ext.runtime.envelope import TensorSummary
from trtllm_ext.runtime.ranks.rehearsal import Rehearsal, check_same_bits
from trtllm_ext.runtime.ranks.self_test import SelfTest, write_self_test

Array = np.ndarray[Any, Any]

# Sizes of the input by the names of dimensions: enough for every layer to have something to mix, and quickly done.
_LARGEST = {"batch_size": 2}
_LARGEST_OTHER = 8
_SEED = 20
# Of a rehearsal: ranks of a large engine come one after the other to its weights on the disk.
TIMEOUT_S = 600.0
_DTYPES = {TORCH_DTYPES[name]: dtype for name, dtype in NUMPY_DTYPES.items()}
_BOUNDS = {"input_ids": "vocab_size", "token_type_ids": "type_vocab_size"}


def write_known_answer(directory: Path, output_dir: str, config: EngineConfig) -> None:
    """Run all ranks of the engines in `directory` once, and write `self_test.npz` beside them.

    output_dir: the directory's name in messages. Taps are no part of the answer: ranks may have parts of them.
    Raises BuildError when the engines do not run together, or do not all give the same bits.
    """
    envelope = EngineDir.read(directory, 0).envelope
    inputs = known_inputs(envelope.inputs, config.pretrained_config)
    names = [each.name for each in envelope.outputs if each.name not in config.taps]
    try:
        with Rehearsal(directory, timeout=TIMEOUT_S, self_test=False) as rehearsal:
            outputs = [{name: rank[name] for name in names} for rank in rehearsal.run(inputs)]
        check_same_bits(outputs)
    except TrtllmExtError as problem:
        said = str(problem).replace(str(directory), output_dir)
        raise BuildError(f"the engines were built, but their ranks do not run together: {said}") from problem
    with write_errors(output_dir, BuildError):
        write_self_test(directory, SelfTest(config.build_id, inputs, outputs[0]))


def known_inputs(inputs: Iterable[TensorSummary], sizes: Mapping[str, Any]) -> dict[str, Array]:
    """A small input of an engine, the same for every build: normal numbers, ids that tables have, a mask of ones.

    Its shape is the first profile's optimum, but of at most 2 sentences and 8 tokens where the profile allows.
    sizes: the model's config, whose vocab_size and type_vocab_size bound ids.
    """
    generator = np.random.default_rng(_SEED)
    return {each.name: input_values(each, smaller_shape(each), sizes, generator) for each in inputs}


def input_values(
    tensor: TensorSummary, shape: tuple[int, ...], sizes: Mapping[str, Any], generator: np.random.Generator
) -> Array:
    """Values that an input takes, in a shape; sizes: as for `known_inputs`."""
    dtype = _DTYPES[tensor.dtype]
    if dtype.kind in "iu" and tensor.name in _BOUNDS:
        return generator.integers(0, sizes.get(_BOUNDS[tensor.name]) or 1, shape).astype(dtype)
    if dtype.kind in "iub":
        return np.ones(shape, dtype)
    return generator.standard_normal(shape, dtype=np.float32).astype(dtype)


def smaller_shape(tensor: TensorSummary) -> tuple[int, ...]:
    """The shape that `known_inputs` gives an input."""
    if not tensor.profiles:
        return tensor.shape
    least, opt, most = tensor.profiles[0]
    names = tensor.dim_names or ("",) * len(opt)
    wanted = (
        size if low == high else min(size, _LARGEST.get(name, _LARGEST_OTHER))
        for name, low, size, high in zip(names, least, opt, most, strict=True)
    )
    return tuple(max(low, size) for low, size in zip(least, wanted, strict=True))
