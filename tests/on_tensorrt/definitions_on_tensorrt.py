"""The oracle and the lowering on TensorRT's own INetworkDefinition: every form, defined there and not built.

    PYTHONPATH=.:tests python tests/on_tensorrt/definitions_on_tensorrt.py FILE [--processes N] [...]

The network is evaluated by the oracle and exported as ONNX, which ONNX Runtime runs; both are compared with the
embedded engine's result, all taps included.
"""

import sys
from pathlib import Path

import cases
import engines
import numpy as np
import onnxruntime
from checks import Checks, Model
from engines import command, difference
from small_models import NAMES, limits_of

import trtllm_ext as tx
from trtllm_ext import backend, oracle
from trtllm_ext.builder.trace import trace
from trtllm_ext.graph.known import known_of
from trtllm_ext.models import model_from_checkpoint

CASES = Checks()
# The embedded engine's own roundings; the oracle has none.
ALLOWED = {"float32": 1e-4, "float16": 1e-2}


def defined(folder: Path, form: str, dtype: str) -> str:
    model = Model(folder, form, dtype)
    want = model.run(model.build("right", "--taps", "*", on="embedded"), on="embedded")
    traced = trace(
        model_from_checkpoint(model.checkpoint), tx.BuildConfig(**limits_of(model.config), taps=("*",))
    )
    by_oracle = _worst([_evaluated(traced.network, given) for given in model.inputs], want)
    path = folder / "network.onnx"
    limits = [f"--{name}={value}" for name, value in limits_of(model.config).items()]
    command(
        "export", "--checkpoint_dir", model.checkpoint, "--onnx", path, "--taps", "*", *limits, on=model.on
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    by_onnx = _worst(
        [dict(zip(names, session.run(names, given), strict=True)) for given in model.inputs], want
    )
    network = type(traced.network.trt_network)
    assert max(by_oracle, by_onnx) <= ALLOWED[dtype], f"oracle {by_oracle:.1e}, ONNX {by_onnx:.1e}"
    layers = traced.network.trt_network.num_layers
    return f"{network.__module__}.{network.__name__} of {layers} layers: oracle {by_oracle:.1e}, ONNX {by_onnx:.1e}"


def _evaluated(network: tx.Network, given: engines.Arrays) -> engines.Arrays:
    known = known_of(network)
    found = oracle.evaluate(
        network.trt_network, backend.tensorrt(), given, None, known.plugins, weights=known.weights
    )
    return {name: np.asarray(value) for name, value in found.items()}


def _worst(got: list[engines.Arrays], want: list[engines.Arrays]) -> float:
    """The largest difference, whatever the types."""
    like = [
        {name: one[name].astype(value.dtype) for name, value in other.items()}
        for one, other in zip(got, want, strict=True)
    ]
    return max(difference(one, other)[0] for one, other in zip(like, want, strict=True))


for dtype in ALLOWED:
    for form in NAMES:
        CASES.enter(defined, form, dtype, name=f"{dtype} {form}: defined")

if __name__ == "__main__":
    sys.exit(cases.main(__file__, CASES))
