"""How far values may lie from their references, and how that is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# Of float32 on the embedded engine; on TensorRT, whose kernels sum in other orders; and there with TF32, whose
# factors have 10 bits behind the binary point, as float16's have.
_FLOAT32 = {"embedded": 1e-5, "tensorrt": 1e-3}
_FLOAT32_TF32 = 5e-3
# A few roundings of 2^-11 and 2^-8 on the way through a sublayer.
_NARROW = {"float16": 1e-2, "bfloat16": 5e-2}
# By how much a rounding of its input moves a router's values, as a share of what they sum: twice that of the type.
_ROUTING = {"float32": 4e-6, "float16": 2.0**-10, "bfloat16": 2.0**-7}
# A network's constants (factors, the slopes of activations) have the model's type, the formulas' do not.
_NETWORK = {"float32": 1e-6, "float16": 2e-3, "bfloat16": 1.6e-2}


@dataclass(frozen=True)
class Tolerances:
    """engine: of a tensor of the engine beside a reference, as a share of the reference's largest number.

    network: of the network in float64 beside the formulas. routing: the margin below which a token of a mixture may go
    to another expert when one sublayer is looked at by itself.
    """

    engine: float
    network: float
    routing: float


def tolerances_of(dtype: str, engine_kind: str, tf32: bool) -> Tolerances:
    """dtype: of the model. engine_kind: 'embedded' or 'tensorrt'. tf32: whether TensorRT may use it."""
    is_tf32 = dtype == "float32" and engine_kind == "tensorrt" and tf32
    wide = _FLOAT32_TF32 if is_tf32 else _FLOAT32[engine_kind]
    engine = _NARROW.get(dtype, wide)
    routing = _ROUTING["float16"] if is_tf32 else max(_ROUTING[dtype], engine / 100)
    return Tolerances(engine, _NETWORK[dtype], routing)


def growth_of(num_sublayers: int) -> float:
    """By how much more is allowed behind that many sublayers: their roundings add up as a random walk's steps do.

    Those of four are within what is allowed of one, whose own are a fifth of it at most (measured on deep stacks, wide
    ones and mixtures).
    """
    return max(1.0, math.sqrt(num_sublayers / 4))


def error_of(value: Any, reference: Any, counted: Array | None = None) -> float:
    """The largest difference of any element, by the largest number of the reference.

    counted: bool, of the leading dimensions: which rows are compared. NaN where there is nothing to compare; infinite
    where the shapes differ, or one of the two is not finite where the other is.
    """
    got, wanted = (np.asarray(each).astype(np.float64) for each in (value, reference))
    if got.shape != wanted.shape:
        return float("inf")
    if counted is not None and got.shape[: counted.ndim] == counted.shape:
        got, wanted = got[counted], wanted[counted]
    if not got.size:
        return float("nan")
    with np.errstate(all="ignore"):
        same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
        difference = np.where(same, 0.0, np.abs(got - wanted))
        largest = np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0)
    if not np.isfinite(difference).all():
        return float("inf")
    return float(difference.max() / largest) if largest else float(difference.max())
