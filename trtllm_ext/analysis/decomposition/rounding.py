"""How far a step of the stream may lie from its exact value, by the types that the engine rounds to."""

from __future__ import annotations

from typing import Any

import numpy as np

from trtllm_ext.analysis.decomposition.linear_maps import NormMap
from trtllm_ext.checkpoint import ModelConfig
from trtllm_ext.errors import AnalysisError

Array = np.ndarray[Any, Any]

# Unit roundoff u: half the distance from 1 to the next number. Smallest step near zero.
ROUNDOFF = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
_STEP_AT_ZERO = {"float32": 2.0**-149, "float16": 2.0**-24, "bfloat16": 2.0**-133}
# Roundings of a sum: of the scaled stream, of the contributions' sum, of the whole; and one to spare.
_OF_SUM = 4.0
# A norm's statistics in float32 are sums over the hidden size, its product and its result are rounded.
_OF_STATISTICS = 64.0
# Mixing matrices are computed in the model's type from a norm, a product, tanh or sigmoid, and iterations.
_OF_MIXING = 32.0


class Bounds:
    """Of one model. All take and give lengths (2-norms over the hidden size), one a token.

    of_sum: 4 u (sum of the summands' lengths + length of the result), u being the stream's unit roundoff; with
        hyper-connections 32 u of the model's type, in which the mixing matrices are computed.
    of_norm: 4 u (length of the result + of the norm's bias) + 64 * 2^-24 * largest factor * length of the stream; u of
        the model's type or the stream's, whichever is coarser.
    Both have the types' smallest steps added, for numbers near zero.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.stream_dtype, self.dtype = config.stream_dtype, config.dtype
        self._stream = ROUNDOFF[config.stream_dtype]
        self._coarsest = max(self._stream, ROUNDOFF[config.dtype])
        least = max(_STEP_AT_ZERO[config.stream_dtype], _STEP_AT_ZERO[config.dtype])
        self._near_zero = 4 * least * config.hidden_size**0.5

    def of_sum(self, sizes: Any, mixed: bool = False) -> Array:
        """sizes: the lengths of all that is added and of the result, together."""
        factor = _OF_MIXING * self._coarsest if mixed else _OF_SUM * self._stream
        return np.asarray(factor * np.asarray(sizes) + self._near_zero)

    def of_embedding(self, sizes: Any) -> Array:
        """As `of_sum`, in the model's type, which tables are in."""
        return np.asarray(_OF_SUM * self._coarsest * np.asarray(sizes) + self._near_zero)

    def of_norm(self, map_: NormMap, stream: Array) -> Array:
        """stream: what is normalised, [tokens, hidden]."""
        shift = 0.0 if map_.shift is None else float(np.linalg.norm(map_.shift))
        rounded = _OF_SUM * self._coarsest * (np.linalg.norm(map_.whole(stream), axis=-1) + shift)
        statistics = (
            _OF_STATISTICS * ROUNDOFF["float32"] * self.through(map_, np.linalg.norm(stream, axis=-1))
        )
        return np.asarray(rounded + statistics + self._near_zero)

    def through(self, map_: NormMap, error: Array) -> Array:
        """What an error before the norm may be after it."""
        return np.asarray(np.abs(map_.factor).max(-1) * error)

    def of_output(self, value: Array) -> Array:
        """The last rounding, to the output's type."""
        return np.asarray(_OF_SUM * self._coarsest * np.linalg.norm(value, axis=-1) + self._near_zero)

    def check(self, step: str, residue: Array, bound: Array, first: int) -> float:
        """The largest residue as a share of its bound.

        residue: [tokens, (streams,) hidden]. first: the number of the first token. Raises AnalysisError above 1.
        """
        found = np.linalg.norm(residue, axis=-1)
        allowed = np.broadcast_to(bound, found.shape)
        shares = np.where(found == 0, 0.0, found / np.where(allowed > 0, allowed, np.finfo(np.float64).tiny))
        if not np.isfinite(found).all():
            where = first + int(np.argwhere(~np.isfinite(found))[0][0])
            raise AnalysisError(
                f"the stream holds NaN or infinity at {step}, token {where}: there are no parts of it to tell apart. "
                "`trtllm-ext verify --bisect` finds the layer that made it."
            )
        worst = float(shares.max(initial=0.0))
        if worst > 1:
            place = np.unravel_index(int(np.argmax(shares)), shares.shape)
            raise AnalysisError(
                f"the sum of the parts leaves the stream at {step}: at token {first + int(place[0])} it is "
                f"{found[place]:.3g} away, and rounding ({self.stream_dtype} stream, {self.dtype} model) explains "
                f"{allowed[place]:.3g}. Either the weights are not those of the engine, or the step is not linear "
                "(T5's clamp of a float16 sum, a fault): `trtllm-ext verify --engine_dir ENGINE --bisect` tells more."
            )
        return worst
