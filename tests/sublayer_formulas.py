"""A way to run a module as an engine, and the formulas that it is held against (`trtllm_ext.verify.formulas`)."""

import math
from collections import OrderedDict

import ml_dtypes
import numpy as np

import trtllm_ext as tx
from trtllm_ext.verify.formulas import (
    ACTIVATION,
    feed_forward,
    gated_feed_forward,
    gelu_erf,
    layer_norm,
    linear,
    mixture_of_experts,
    residual,
    rms_norm,
    self_attention,
    sigmoid,
    softmax,
)

__all__ = [
    "ACTIVATION",
    "DTYPES",
    "TOLERANCE",
    "assert_close",
    "engine_of_module",
    "feed_forward",
    "gated_feed_forward",
    "gelu_erf",
    "layer_norm",
    "linear",
    "mixture_of_experts",
    "residual",
    "rms_norm",
    "run_module",
    "self_attention",
    "set_random",
    "sigmoid",
    "softmax",
]

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}

# Largest error against float64, as a share of the reference's largest magnitude. Weights and inputs are rounded to
# the type before, so what remains is the engine's: float32 sums in another order; a few roundings of a narrow type,
# each at most 2^-11 (float16) or 2^-8 (bfloat16), one at the edge of every layer. Twice the worst seen.
TOLERANCE = {"float32": 1e-6, "float16": 2e-3, "bfloat16": 1.6e-2}


def assert_close(got, reference, dtype, factor=1.0):
    assert got.shape == reference.shape
    error = np.abs(got.astype(np.float64) - reference).max()
    limit = factor * TOLERANCE[dtype] * np.abs(reference).max()
    assert error <= limit, f"{dtype}: largest error {error:.3g}, allowed {limit:.3g}"


def run_module(module, inputs, dtype="float32"):
    """Build module(*inputs) and run it: each input has its array's type, and its first dimension is dynamic.

    The result has the type that the module gives. dtype: the builder's precision.
    """
    with tx.Session.from_serialized_engine(engine_of_module(module, inputs, dtype)) as session:
        return session.run(inputs)["y"]


def engine_of_module(module, inputs, dtype="float32"):
    """The engine that `run_module` runs; its output is `y`."""
    builder = tx.Builder()
    network = builder.create_network()
    with tx.net_guard(network):
        tensors = []
        for name, value in inputs.items():
            ranges = OrderedDict(rows=[[1, 8, 64]])
            ranges.update((f"{name}{i}", [size]) for i, size in enumerate(value.shape[1:]))
            shape = [-1, *value.shape[1:]]
            tensors.append(tx.Tensor(name=name, dtype=value.dtype.name, shape=shape, dim_range=ranges))
        module(*tensors).mark_output("y")
    return builder.build_engine(network, builder.create_builder_config(precision=dtype))


def set_random(module, dtype, seed=0):
    """Give every parameter random values of `dtype`; returns them as float64 by name."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, parameter in module.named_parameters():
        scale = 1 / math.sqrt(parameter.shape[-1]) if len(parameter.shape) > 1 else 0.3
        values = rng.normal(scale=scale, size=parameter.shape)
        if name.endswith("weight") and len(parameter.shape) == 1:
            values += 1  # a norm's
        parameter.value = values.astype(DTYPES[dtype])
        weights[name] = parameter.raw_value.astype(np.float64)
    return weights
