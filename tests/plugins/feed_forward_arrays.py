"""Runs of feed-forward plans on NumPy arrays, and what they are to give, in float64 with each rounding in its place."""

import math
from typing import Any

import ml_dtypes
import numpy as np

from trtllm_ext.plugin.feed_forward_plan import FeedForwardForm, FeedForwardPlan
from trtllm_ext.plugin.kernels import Kernels

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
# |got - wanted| / |wanted|, as vectors. Sums in another order turn a rounding over here and there; one rounding too
# many or too few is 3.5e-4 in float16 and 2e-3 in bfloat16, or more.
TOLERANCE = {"float32": 1e-6, "float16": 1.5e-4, "bfloat16": 8e-4}
# What an epilogue of a product can, so that nothing is rounded before it.
EPILOGUES = ("identity", "relu", "gelu_tanh")

_erf = np.vectorize(math.erf, otypes=[np.float64])
_ACTIVATIONS = {
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "gelu_erf": lambda x: x / 2 * (1 + _erf(x / np.sqrt(2))),
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "squared_relu": lambda x: np.maximum(x, 0) ** 2,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


def form(
    hidden: int = 24, ffn: int = 40, tokens: int = 32, dtype: str = "float32", **more: Any
) -> FeedForwardForm:
    """A form for at most `tokens`; what `more` does not say is off, the activation relu."""
    return FeedForwardForm(
        hidden_size=hidden,
        ffn_hidden_size=ffn,
        max_num_tokens=tokens,
        dtype=dtype,
        **({"activation": "relu"} | more),
    )


def arrays_of(
    form: FeedForwardForm, num_tokens: int, *, gap: int = 0, shift: int = 0
) -> dict[str, np.ndarray]:
    """Random operands of a run, y and what lies between rows full of NaN.

    gap: elements between the rows of x, residual and y. shift: elements from a 64-byte address to each first element.
    """
    draw = np.random.default_rng(num_tokens * 1000 + form.ffn_hidden_size)
    dtype, hidden, ffn = DTYPES[form.dtype], form.hidden_size, form.ffn_hidden_size

    def filled(rows: int, width: int, space: int, scale: float) -> np.ndarray:
        view = _memory(rows, width, space, shift, dtype)
        view[...] = draw.normal(scale=scale, size=(rows, width))
        return view

    given = {
        "x": filled(num_tokens, hidden, gap, 1.0),
        "fc_weight": filled(ffn, hidden, 0, hidden**-0.5),
        "proj_weight": filled(hidden, ffn, 0, ffn**-0.5),
        "y": _memory(num_tokens, hidden, gap, shift, dtype),
    }
    if form.gated:
        given["gate_weight"] = filled(ffn, hidden, 0, hidden**-0.5)
    for name, width in (("fc_bias", ffn), ("gate_bias", ffn), ("proj_bias", hidden)):
        if getattr(form, f"has_{name}"):
            given[name] = filled(1, width, 0, 1.0)[0]
    if form.has_residual:
        given["residual"] = filled(num_tokens, hidden, gap, 1.0)
    return given


def workspace_for(plan: FeedForwardPlan, num_tokens: int) -> np.ndarray:
    """Workspace full of NaN, 256-byte aligned, of the size asked for and not a byte more."""
    size = plan.workspace_size(num_tokens)
    whole = np.full(size + 256, 255, np.uint8)
    first = -whole.ctypes.data % 256
    return whole[first : first + size]


def run(plan: FeedForwardPlan, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """y of a run in a fresh workspace."""
    plan.run(**arrays, workspace=workspace_for(plan, len(arrays["x"])))
    return arrays["y"]


def tune(plan: FeedForwardPlan, num_tokens: int) -> None:
    tune_on(plan, arrays_of(plan.form, num_tokens))


def tune_on(plan: FeedForwardPlan, arrays: dict[str, np.ndarray]) -> None:
    plan.tune(**arrays, workspace=workspace_for(plan, len(arrays["x"])))


def check_run(plan: FeedForwardPlan, num_tokens: int) -> None:
    """A run by cublasLt is the reference."""
    arrays = arrays_of(plan.form, num_tokens)
    wanted = reference(plan.form, arrays, by_cublaslt=True)
    assert error_of(run(plan, arrays), wanted) <= TOLERANCE[plan.form.dtype]


def reference(form: FeedForwardForm, arrays: dict[str, np.ndarray], *, by_cublaslt: bool) -> np.ndarray:
    """y in float64, rounded to the form's type. by_cublaslt: products that no epilogue finishes are rounded, too."""
    wide = {name: value.astype(np.float64) for name, value in arrays.items() if name != "y"}
    apart = form.gated or form.clamp > 0 or form.activation not in EPILOGUES

    def product(weight: str) -> np.ndarray:
        exact = wide["x"] @ wide[weight].T
        return _rounded(exact, form.dtype) if by_cublaslt and apart else exact

    limit = form.clamp if form.clamp > 0 else np.inf
    fc = product("fc_weight") + wide.get("fc_bias", 0)
    inner = _ACTIVATIONS[form.activation](np.minimum(fc, limit))
    if form.gated:
        gate = product("gate_weight") + wide.get("gate_bias", 0)
        inner = inner * (np.clip(gate, -limit, limit) + form.gate_offset)
    inner = _rounded(inner, form.dtype)
    outer = inner @ wide["proj_weight"].T + wide.get("proj_bias", 0) + wide.get("residual", 0)
    return _rounded(outer, form.dtype)


def check(
    kernels: Kernels, form: FeedForwardForm, num_tokens: int, *, by_cublaslt: bool, **layout: int
) -> None:
    """A run of a new plan is the reference, and leaves x, residual and what lies between the rows alone."""
    arrays = arrays_of(form, num_tokens, **layout)
    before = {name: _bits(value) for name, value in arrays.items() if name != "y"}
    wanted = reference(form, arrays, by_cublaslt=by_cublaslt)
    with FeedForwardPlan(kernels, form) as plan:
        road = plan.describe(num_tokens).get("road")
        assert road == (("cublaslt" if by_cublaslt else "plain") if num_tokens else None)
        got = run(plan, arrays).astype(np.float64)
    error = error_of(got, wanted)
    assert error <= TOLERANCE[form.dtype], f"{num_tokens} tokens, {form}: off by {error:.2e}"
    for name, bits in before.items():
        np.testing.assert_array_equal(_bits(arrays[name]), bits, err_msg=f"{name} was written")
    around = arrays["y"].base
    assert np.isnan(around.astype(np.float32)).sum() == around.size - got.size


def error_of(got: np.ndarray, wanted: np.ndarray) -> float:
    """|got - wanted| / |wanted| in float64; NaN where either has one."""
    distance = np.linalg.norm(got.astype(np.float64) - wanted)
    return float(distance / np.linalg.norm(wanted)) if wanted.size else float(distance)


def _memory(rows: int, width: int, gap: int, shift: int, dtype: Any) -> np.ndarray:
    """A matrix of NaN in a larger flat array of them: its `base`."""
    whole = np.full(shift + (rows + 1) * (width + gap) + 64, np.nan, dtype)
    first = -whole.ctypes.data % 64 // whole.itemsize + shift
    strides = ((width + gap) * whole.itemsize, whole.itemsize)
    return np.ndarray((rows, width), dtype, buffer=whole, offset=first * whole.itemsize, strides=strides)


def _rounded(x: np.ndarray, dtype: str) -> np.ndarray:
    """x as it is in `dtype`, through float32, as the kernels' arithmetic is."""
    return x.astype(np.float32).astype(DTYPES[dtype]).astype(np.float64)


def _bits(x: np.ndarray) -> np.ndarray:
    """A copy of the memory that x lies in, as bytes."""
    base = x.base if x.base is not None else x
    while base.base is not None:
        base = base.base
    return base.view(np.uint8).copy()
