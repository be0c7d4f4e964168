"""Indices drawn by probability."""

from typing import Any, NoReturn

from trtllm_ext.graph.functional.constants import cast
from trtllm_ext.graph.functional.cumulative import cumsum
from trtllm_ext.graph.functional.elementwise import div, lt
from trtllm_ext.graph.functional.operands import require_same_dtype, require_tensor
from trtllm_ext.graph.functional.ranking import argmax
from trtllm_ext.graph.functional.reduction import sum
from trtllm_ext.graph.functional.shaping import unsqueeze
from trtllm_ext.graph.functional.unary import not_op
from trtllm_ext.graph.layer import fail
from trtllm_ext.graph.tensor import Tensor


def rand(shape: Tensor, low: float = 0, high: float = 1, dtype: Any = "float32") -> NoReturn:
    """Not available, and switched off in TensorRT-LLM: random numbers. Always raises GraphError."""
    raise fail(
        "rand is not available (it is switched off in TensorRT-LLM, too); give random numbers as an input"
    )


def categorical_sample(probs: Tensor, rand_data: Tensor | None = None) -> Tensor:
    """For each row of `probs` (..., n) an int32 index, drawn with these probabilities: (...).

    probs: not negative, need not sum to 1.
    rand_data: numbers of that type from 0 up to 1, one a row: (...). The index is the first at which the running sum of
        probabilities reaches the number.
    Raises GraphError without rand_data, since `rand` is not available.
    """
    rank = require_tensor(probs, "probs").rank()
    if rank == 0:
        raise fail("categorical_sample takes probabilities of rank 1 or more, got rank 0")
    if rand_data is None:
        raise fail("categorical_sample needs rand_data, random numbers as an input: rand is not available")
    require_same_dtype(probs, rand_data)
    if rand_data.rank() != rank - 1:
        raise fail(f"rand_data has one number a row of {probs.shape}, got the shape {rand_data.shape}")
    shares = div(probs, sum(probs, -1, keepdim=True))
    reached = not_op(lt(cumsum(shares, -1), unsqueeze(rand_data, -1)))
    return argmax(cast(reached, probs.dtype), -1)
