"""float16 sums brought back into the type's range, as T5 does."""

from __future__ import annotations

from trtllm_ext.graph import Tensor, functional
from trtllm_ext.layers.tensor_parallel import sum_over_ranks

_LARGEST_FLOAT16 = 65504.0
# What T5 takes off the largest number when a sum has overflowed.
_CLAMP_MARGIN = 1000.0


def clamped(x: Tensor, token_group: list[int] | None) -> Tensor:
    """x, float16, within +-65504, or +-64512 where any element is infinite, on any rank of a group.

    token_group: the ranks of which each has some of the tokens, at the cost of a sum of one number over them.
    """
    dims = tuple(range(x.rank()))
    magnitude = functional.cast(functional.abs(x), "float32")
    overflows = functional.max(magnitude, dims, keepdim=True) > _LARGEST_FLOAT16
    if token_group is not None:
        overflows = sum_over_ranks(functional.cast(overflows, "float32"), token_group) > 0.0
    limit = functional.where(overflows, _LARGEST_FLOAT16 - _CLAMP_MARGIN, _LARGEST_FLOAT16)
    bound = functional.cast(limit, x.dtype)
    return functional.minimum(functional.maximum(x, -1.0 * bound), bound)
