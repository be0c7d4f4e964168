"""The maps that parts of the stream pass on their way: linear once what they take from the whole stream is fixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trtllm_ext.checkpoint import HyperConnectionContract, NormContract
from trtllm_ext.verify.formulas.hyper_connections import dynamic_matrix, manifold_matrices, static_matrix

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class NormMap:
    """x -> (x - mean(x)) * factor + shift of a LayerNorm, x -> x * factor + shift of an RMS norm.

    The statistics are those of the whole stream, so that the map is linear in its parts and their images add up to the
    norm of their sum: mean(x) is linear, and the division by the deviation is a factor (Elhage et al. 2021, "A
    Mathematical Framework for Transformer Circuits", on handling layer normalisation).
    factor: [tokens, hidden]. shift: [hidden] or None.
    """

    factor: Array
    shift: Array | None
    centred: bool

    def linear(self, parts: Array) -> Array:
        """parts: [..., tokens, hidden]; their images, without the shift."""
        if self.centred:
            parts = parts - parts.mean(-1, keepdims=True)
        return parts * self.factor

    def whole(self, stream: Array) -> Array:
        """The norm of the stream."""
        image = self.linear(stream)
        return image if self.shift is None else image + self.shift

    def directions(self, directions: Array) -> Array:
        """The transposed map: <directions, linear(x)> = <the result, x>. directions: [..., tokens, hidden]."""
        scaled = directions * self.factor
        return scaled - scaled.mean(-1, keepdims=True) if self.centred else scaled


def norm_map(contract: NormContract, stream: Array, gain: Array | None, shift: Array | None) -> NormMap:
    """The map of a norm at these streams, float64 [tokens, hidden].

    gain: [hidden], the weight with its offset, or None. shift: [hidden], the bias, or None.
    """
    centred = contract.kind == "layer_norm"
    spread = stream - stream.mean(-1, keepdims=True) if centred else stream
    factor = 1 / np.sqrt((spread**2).mean(-1, keepdims=True) + contract.eps)
    if gain is not None:
        factor = factor * gain
    return NormMap(np.broadcast_to(factor, stream.shape), shift, centred)


def norm_map_of(contract: NormContract, stream: Array, weights: Mapping[str, Array], name: str) -> NormMap:
    """The same, with the weights under `name`."""
    gain = weights[f"{name}.weight"].astype(np.float64) + contract.weight_offset if contract.weight else None
    shift = weights.get(f"{name}.bias")
    return norm_map(contract, stream, gain, None if shift is None else shift.astype(np.float64))


def mixing(
    contract: HyperConnectionContract, streams: Array, weights: Mapping[str, Array]
) -> tuple[Array, Array]:
    """What hyper-connections do to streams [tokens, n, hidden]: mixing [tokens, n, n] and factors [tokens, n].

    The next streams are mixing @ streams + factors * contribution. The matrices are computed from the whole streams;
    given them, all of it is linear. weights: the block's, under their own names, float64.
    """
    tokens, count = streams.shape[:2]
    mix, factors = np.empty((tokens, count, count)), np.empty((tokens, count))
    for token, h in enumerate(streams):
        if contract.kind == "manifold":
            assert contract.eps is not None
            _, factors[token], mix[token] = manifold_matrices(
                h, weights, contract.eps, contract.sinkhorn_iterations
            )
            continue
        if contract.kind == "static":
            matrix = static_matrix(weights)
        else:
            assert contract.eps is not None
            matrix = dynamic_matrix(h, weights, contract.norm, contract.eps)
        factors[token], mix[token] = matrix[0, 1:], matrix[1:, 1:].T
    return mix, factors
