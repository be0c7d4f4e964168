"""What each neuron of a checkpoint's feed-forward does to given vectors of the stream, in float64.

A feed-forward's contribution is the sum over its neurons of activation times write direction, and its biases. A norm
behind it is linear once its statistics are fixed: the contribution stays such a sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trtllm_ext.checkpoint import NormContract
from trtllm_ext.checkpoint.lazy import LazyCheckpoint
from trtllm_ext.checkpoint.weights import feed_forward_norm_names
from trtllm_ext.verify.formulas import ACTIVATION, routing_margin, sigmoid, softmax
from trtllm_ext.verify.formulas.norms import norm

Array = npt.NDArray[np.float64]
# Bytes of a matrix that are widened to float64 at a time.
_PIECE_BYTES = 32 << 20
SHARED = "shared_expert."


@dataclass(frozen=True)
class Unit:
    """Neurons that lie side by side in one matrix: a feed-forward's, an expert's, the shared expert's.

    name: '' of a feed-forward's own, '[3]' of an expert's, 'shared_expert.' of the shared one's: what stands around fc
    and proj in a StreamMap's roles. expert: its row where the matrices are stacked, else None.
    """

    name: str = ""
    expert: int | None = None

    @property
    def prefix(self) -> str:
        """Of its weights' names below mlp."""
        return self.name if self.expert is None else ""


@dataclass(frozen=True)
class Activity:
    """What one unit's neurons give for those tokens that reach it.

    tokens: (t,), their rows among the vectors given. values: (t, neurons), each neuron's activation: what its column of
    proj is multiplied by. factor: (t,), the router's weight.
    """

    unit: Unit
    tokens: npt.NDArray[np.intp]
    values: Array
    factor: Array


@dataclass(frozen=True)
class Fired:
    """What a feed-forward gives for some vectors of the stream.

    activities: of every unit that a token reaches. contribution: (tokens, hidden), what joins the stream. stream:
    (tokens, hidden), what the sublayer or its norm read. inverse_sigma: (tokens,), 1 / sigma of the norm behind the
    sublayer, 1 where there is none. margin: (tokens,), how far the router is from another choice; inf without one.
    """

    activities: list[Activity]
    contribution: Array
    stream: Array
    inverse_sigma: Array
    margin: Array


class FeedForwardNeurons:
    """The feed-forward of one layer of a checkpoint: its contract, and its weights as they are stored.

    alive: called with each piece of a matrix.
    Memory: activations of the tokens at hand, one matrix as it is stored, and pieces of it in float64.
    """

    def __init__(
        self, checkpoint: LazyCheckpoint, layer: int, alive: Callable[[], None] = lambda: None
    ) -> None:
        path = f"transformer.layers.{layer}"
        self._checkpoint, self._path, self._alive = checkpoint, f"{path}.mlp.", alive
        self.form = checkpoint.config.contract.feed_forward
        residual, names = self.form.residual, feed_forward_norm_names(self.form.residual)
        before = residual.norm if residual.placement in ("pre", "sandwich") else None
        behind = residual.norm if residual.placement == "branch" else residual.post_norm
        self._small = {
            name.removeprefix(f"{path}."): _wide(checkpoint.values(name))
            for name, shape in checkpoint.shapes.items()
            if name.startswith(f"{path}.") and (len(shape) == 1 or name.endswith(".bias"))
        }
        self._norm = norm(before, self._small, names[0])
        self.behind = behind
        behind_name = names[0] if residual.placement == "branch" else names[1]
        self._behind_norm = norm(behind, self._small, behind_name)
        self._inner_norm = norm(self.form.inner_norm, self._small, "mlp.inner_layernorm")
        self.factor = residual.scale * _gate(residual.gate, self._small.get("mlp_scale.weight"))
        self.gain = _gain(behind, self._small, behind_name)

    @property
    def units(self) -> list[Unit]:
        mixture = self.form.mixture
        if mixture is None:
            return [Unit()]
        units = [Unit(f"[{expert}]", expert) for expert in range(mixture.num_experts)]
        if mixture.shared_expert_intermediate_size is not None:
            units.append(Unit(SHARED))
        return units

    def fire(self, before: npt.NDArray[Any]) -> Fired:
        """before: the tap of that name, (tokens, hidden)."""
        stream = _wide(before)
        x = stream if self._norm is None else self._norm(stream)
        total = np.zeros_like(x)
        activities, margin = [], np.full(len(x), np.inf)
        for unit, tokens, factor in self._routed(x):
            values = self._activations(x[tokens], unit)
            activities.append(Activity(unit, tokens, values, factor))
            given = self._product(values, unit, "proj") + self._bias(unit, "proj")
            total[tokens] += factor[:, None] * given
        if self.form.mixture is not None:
            margin = np.asarray(routing_margin(x, self._router(), self.form.mixture.top_k))
        inverse_sigma = np.ones(len(x))
        if self._behind_norm is not None:
            assert self.behind is not None
            inverse_sigma = _inverse_sigma(total, self.behind)
            total = self._behind_norm(total)
        return Fired(activities, self.factor * total, stream, inverse_sigma, margin)

    def written(self, unit: Unit, neurons: npt.NDArray[np.intp]) -> Array:
        """The write directions of some neurons, (neurons, hidden), for an activation, factor and 1 / sigma of 1."""
        with self._matrix(unit, "proj") as matrix:
            columns = _wide(matrix[:, neurons]).T
        if self.behind is not None and self.behind.kind == "layer_norm":
            columns = columns - columns.mean(1, keepdims=True)
        return np.asarray(self.factor * self.gain * columns)

    def row(self, unit: Unit, name: str, neuron: int) -> Array:
        """A neuron's row of fc or gate, (hidden,), as it is stored."""
        with self._matrix(unit, name) as matrix:
            return np.asarray(_wide(matrix[neuron]))

    @property
    def width(self) -> int:
        """Neurons that a token passes at most, at a time."""
        shapes = self._checkpoint.shapes
        return max(shapes[f"{self._path}{unit.prefix}fc.weight"][-2] for unit in self.units)

    # --- the parts of it ---------------------------------------------------------------------------------------

    def _routed(self, x: Array) -> Iterator[tuple[Unit, npt.NDArray[np.intp], Array]]:
        """Every unit that tokens reach, with their rows and the router's weights of them."""
        mixture, everyone = self.form.mixture, np.arange(len(x))
        if mixture is None:
            yield self.units[0], everyone, np.ones(len(x))
            return
        router = self._router()
        probabilities = softmax(x @ router["router.weight"].T + router.get("router.bias", 0.0))
        chosen = np.argsort(-probabilities, axis=1, kind="stable")[:, : mixture.top_k]
        share = np.zeros_like(probabilities)
        np.put_along_axis(share, chosen, np.take_along_axis(probabilities, chosen, 1), 1)
        if mixture.weights == "renormalized":
            share /= share.sum(1, keepdims=True)
        is_chosen = np.zeros(share.shape, bool)
        np.put_along_axis(is_chosen, chosen, True, 1)
        for unit in self.units:
            if unit.expert is not None:
                tokens = np.flatnonzero(is_chosen[:, unit.expert])
                if len(tokens):
                    yield unit, tokens, share[tokens, unit.expert]
            elif mixture.shared_expert_gate:
                yield unit, everyone, sigmoid(x @ self._whole("shared_expert_gate.weight")[0])
            else:
                yield unit, everyone, np.ones(len(x))

    def _activations(self, x: Array, unit: Unit) -> Array:
        """(tokens, neurons): what proj is given."""
        form = self.form
        fc = self._product(x, unit, "fc") + self._bias(unit, "fc")
        if not form.gated:
            inner = ACTIVATION[form.activation](fc)
        else:
            clamp = np.inf if form.clamp is None else form.clamp
            gate = self._product(x, unit, "gate") + self._bias(unit, "gate")
            inner = ACTIVATION[form.activation](np.minimum(fc, clamp)) * (
                np.clip(gate, -clamp, clamp) + form.gate_offset
            )
        return inner if self._inner_norm is None else self._inner_norm(inner)

    def _product(self, x: Array, unit: Unit, name: str) -> Array:
        """x matrix^T, with some rows of the matrix in float64 at a time."""
        with self._matrix(unit, name) as matrix:
            result = np.empty((len(x), len(matrix)))
            rows = max(1, _PIECE_BYTES // (8 * matrix.shape[1]))
            for begin in range(0, len(matrix), rows):
                self._alive()
                result[:, begin : begin + rows] = x @ _wide(matrix[begin : begin + rows]).T
        return result

    @contextmanager
    def _matrix(self, unit: Unit, name: str) -> Iterator[npt.NDArray[Any]]:
        """As it is stored; its pages do not stay in memory."""
        full = f"{self._path}{unit.prefix}{name}.weight"
        matrix = self._checkpoint.values(full)
        yield matrix if unit.expert is None else matrix[unit.expert]
        self._checkpoint.release_pages(full)

    def _whole(self, name: str) -> Array:
        return np.asarray(_wide(self._checkpoint.values(f"{self._path}{name}")))

    def _router(self) -> dict[str, Array]:
        bias = self._small.get("mlp.router.bias")
        return {"router.weight": self._whole("router.weight")} | (
            {} if bias is None else {"router.bias": bias}
        )

    def _bias(self, unit: Unit, name: str) -> Any:
        bias = self._small.get(f"mlp.{unit.prefix}{name}.bias")
        if bias is None:
            return 0.0
        return bias if unit.expert is None else bias[unit.expert]


def _wide(values: Any) -> Any:
    return np.asarray(values).astype(np.float64)


def _gate(kind: str, weight: Array | None) -> Any:
    if weight is None:
        return 1.0
    return np.tanh(weight) if kind == "tanh" else weight


def _gain(contract: NormContract | None, weights: dict[str, Array], name: str) -> Any:
    if contract is None or not contract.weight:
        return 1.0
    return weights[f"{name}.weight"] + contract.weight_offset


def _inverse_sigma(x: Array, contract: NormContract) -> Array:
    if contract.kind == "layer_norm":
        x = x - x.mean(1, keepdims=True)
    return 1.0 / np.sqrt((x**2).mean(1) + contract.eps)
