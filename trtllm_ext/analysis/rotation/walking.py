"""A stack's or an encoder's sublayers one after the other in float64, on given input, one matrix in memory at a time.

The formulas are `trtllm_ext.verify.formulas`'; here their weights are loaded when they are used, and what is multiplied
may be quantised. Forms with hyper-connections are left to those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from trtllm_ext.analysis.rotation.schemes import EXACT, Scheme
from trtllm_ext.checkpoint import ModelConfig
from trtllm_ext.checkpoint.contract import FeedForwardContract, NormContract, ResidualContract
from trtllm_ext.checkpoint.lazy import LazyCheckpoint
from trtllm_ext.checkpoint.weights import ATTENTION_NORMS, feed_forward_norm_names
from trtllm_ext.errors import ConfigError, InputError
from trtllm_ext.verify.formulas import self_attention, sigmoid, softmax
from trtllm_ext.verify.formulas.feed_forward import feed_forward, gated_feed_forward, linear
from trtllm_ext.verify.formulas.norms import norm as norm_of
from trtllm_ext.verify.formulas.residual import contribution

Wide = npt.NDArray[np.float64]


class LazyWeights(Mapping[str, Wide]):
    """Weights below a prefix in float64, each loaded, and quantised where it is a matrix, when it is asked for.

    number: of the expert whose part is taken of a stacked weight.
    """

    def __init__(
        self, stored: LazyCheckpoint, prefix: str, scheme: Scheme = EXACT, number: int | None = None
    ) -> None:
        self._stored, self._prefix, self._scheme, self._number = stored, prefix, scheme, number

    def __getitem__(self, name: str) -> Wide:
        full = self._prefix + name
        if full not in self._stored.shapes:
            raise KeyError(name)
        values = self._stored.values(full)
        if self._number is not None:
            values = values[self._number]
        wide = values.astype(np.float64)
        del values
        self._stored.release_pages(full)
        return self._scheme.weights(wide) if name.endswith(".weight") and wide.ndim == 2 else wide

    def __iter__(self) -> Iterator[str]:
        names = (name for name in self._stored.shapes if name.startswith(self._prefix))
        return (name.removeprefix(self._prefix) for name in names)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True)
class Call:
    """One sublayer on one input. name: 'transformer.layers.3.mlp'. layer: its number.

    stream: (tokens, hidden), before it. read: the same behind the norm that it reads through.
    exact: what the sublayer gives for `read`, before norm, gate and scale. walk, kind: whose `sublayer` it is.
    """

    name: str
    layer: int
    kind: str
    stream: Wide
    read: Wide
    exact: Wide
    walk: Walk

    def quantised(self, scheme: Scheme) -> Wide:
        """`exact`, with values rounded as the scheme says."""
        return self.walk.sublayer(self.kind, self.layer, self.read, scheme)


class Walk:
    """A checkpoint on one input.

    inputs: hidden_states and attention_output of a stack, (..., hidden) and (layers, ..., hidden); input_ids,
        attention_mask and token_type_ids of an encoder.
    output: hidden_states_out or last_hidden_state, once `calls` has come to its end.
    Raises InputError for inputs that are missing or do not fit, ConfigError for hyper-connections.
    """

    def __init__(self, stored: LazyCheckpoint, inputs: Mapping[str, npt.NDArray]) -> None:
        self.stored, self.config = stored, stored.config
        self._inputs = inputs
        check_inputs(self.config, inputs)
        self.output: Wide | None = None

    def calls(self) -> Iterator[Call]:
        """Every sublayer with its input, in order."""
        contract = self.config.contract
        x = self._embedded() if contract.embedding is not None else self._wide("hidden_states")
        for index in range(self.config.num_hidden_layers):
            path = f"transformer.layers.{index}"
            beside: Wide | float = 0.0
            if contract.attention is not None:
                residual = contract.attention.residual
                x = yield from self._block(f"{path}.attention", index, x, residual, ATTENTION_NORMS)
            if contract.attention_input:
                given = self._inputs["attention_output"][index].astype(np.float64)
                if contract.feed_forward.residual.parallel == "none":
                    x = x + given
                else:
                    beside = given
            residual = contract.feed_forward.residual
            names = feed_forward_norm_names(residual)
            x = yield from self._block(f"{path}.mlp", index, x, residual, names, beside)
        final = self._norm(contract.final_norm, "transformer.ln_f")
        self.output = x if final is None else final(x)

    def sublayer(self, kind: str, index: int, x: Wide, scheme: Scheme = EXACT) -> Wide:
        """Attention or feed-forward of what it reads, quantised by the scheme but for routers and softmax."""
        prefix = f"transformer.layers.{index}.{kind}."
        if kind == "attention":
            return self._attention(prefix, x, scheme)
        form = self.config.contract.feed_forward
        if form.mixture is None:
            return self._expert(form, LazyWeights(self.stored, prefix, scheme), x, scheme, prefix)
        return self._mixture(form, prefix, x, scheme)

    # --- blocks ---------------------------------------------------------------------------------------------

    def _block(
        self,
        name: str,
        index: int,
        x: Wide,
        residual: ResidualContract,
        norm_names: tuple[str, str],
        beside: Wide | float = 0.0,
    ) -> Any:
        path, kind = name.rsplit(".", 1)
        norm, post = (
            self._norm(contract, f"{path}.{each}")
            for contract, each in zip((residual.norm, residual.post_norm), norm_names, strict=True)
        )
        reads = norm is not None and residual.placement in ("pre", "sandwich")
        read = norm(x) if reads and norm is not None else x
        exact = self.sublayer(kind, index, read)
        yield Call(name, index, kind, x, read, exact, self)
        factor = residual.scale * self._gate(residual, name)
        added = contribution(x, lambda _: exact, norm, residual.placement, post, factor)
        x = residual.skip_scale * x + beside + added
        return norm(x) if norm is not None and residual.placement == "post" else x

    def _gate(self, residual: ResidualContract, name: str) -> Any:
        if residual.gate == "none":
            return 1.0
        gate = self.stored.values(f"{name}_scale.weight").astype(np.float64)
        return np.tanh(gate) if residual.gate == "tanh" else gate

    def _norm(self, contract: NormContract | None, name: str) -> Any:
        return norm_of(contract, LazyWeights(self.stored, ""), name)

    # --- sublayers ------------------------------------------------------------------------------------------

    def _expert(
        self,
        form: FeedForwardContract,
        weights: Mapping[str, Wide],
        x: Wide,
        scheme: Scheme,
        prefix: str = "",
        part: str = "",
    ) -> Wide:
        inner_norm = self._norm(form.inner_norm, f"{prefix}inner_layernorm")

        def inner(values: Wide) -> Wide:
            return scheme.activations(values if inner_norm is None else inner_norm(values))

        one = partial(feed_forward, activation=form.activation)
        if form.gated:
            clamp = np.inf if form.clamp is None else form.clamp
            one = partial(
                gated_feed_forward, activation=form.activation, clamp=clamp, gate_offset=form.gate_offset
            )
        return np.asarray(one(scheme.activations(x), weights, prefix=part, inner_norm=inner))

    def _mixture(self, form: FeedForwardContract, prefix: str, x: Wide, scheme: Scheme) -> Wide:
        """Every expert on its tokens; the router sees exact values, as programs that quantise have it."""
        mixture = form.mixture
        assert mixture is not None
        rows = x.reshape(-1, x.shape[-1])
        plain = LazyWeights(self.stored, prefix)
        shares = softmax(linear(rows, plain, "router"))
        chosen = np.argsort(-shares, axis=-1, kind="stable")[:, : mixture.top_k]
        y = np.zeros_like(rows)
        for number in range(mixture.num_experts):
            tokens = np.flatnonzero((chosen == number).any(-1))
            if not tokens.size:
                continue
            factor = shares[tokens, number]
            if mixture.weights == "renormalized":
                factor = factor / np.take_along_axis(shares[tokens], chosen[tokens], -1).sum(-1)
            weights = LazyWeights(self.stored, prefix, scheme, number)
            y[tokens] += factor[:, None] * self._expert(form, weights, rows[tokens], scheme)
        if mixture.shared_expert_intermediate_size is not None:
            weights = LazyWeights(self.stored, prefix, scheme)
            shared = self._expert(form, weights, rows, scheme, part="shared_expert.")
            gated = mixture.shared_expert_gate
            y += sigmoid(linear(rows, plain, "shared_expert_gate")) * shared if gated else shared
        return y.reshape(x.shape)

    def _attention(self, prefix: str, x: Wide, scheme: Scheme) -> Wide:
        weights = LazyWeights(self.stored, prefix, scheme)
        qkv = linear(scheme.activations(x), weights, "qkv")
        # The formula between the two matrices: with ones in their place.
        between = {
            f"{name}.weight": np.eye(size)
            for name, size in (("qkv", qkv.shape[-1]), ("dense", qkv.shape[-1] // 3))
        }
        keep = self._inputs["attention_mask"] != 0
        joined = self_attention(qkv, between, self.config.num_attention_heads, keep)
        return linear(scheme.activations(joined), weights, "dense")

    # --- inputs ---------------------------------------------------------------------------------------------

    def _wide(self, name: str) -> Wide:
        return self._inputs[name].astype(np.float64)

    def _embedded(self) -> Wide:
        contract = self.config.contract.embedding
        assert contract is not None
        ids = self._inputs["input_ids"]

        def rows(table: str, index: Any) -> Wide:
            name = f"transformer.embedding.{table}_embedding.weight"
            return self.stored.values(name)[index].astype(np.float64)

        begin = contract.position_offset
        x = rows("vocab", ids) + rows("position", slice(begin, begin + ids.shape[1]))
        if contract.token_type:
            x = x + rows("token", self._inputs["token_type_ids"])
        normed = self._norm(contract.norm, "transformer.embedding.embedding_ln")
        return x if normed is None else np.asarray(normed(x))


def check_inputs(config: ModelConfig, inputs: Mapping[str, npt.NDArray]) -> None:
    """Raise InputError for inputs that are missing or do not fit, ConfigError for a form that `Walk` does not know."""
    if config.contract.feed_forward.residual.hyper_connections is not None:
        raise ConfigError("a stack with hyper-connections has several streams; none of them is measured.")
    needed = _needed(config)
    for name, shape in needed.items():
        if name not in inputs:
            raise InputError(
                f"the input {name} is missing; given: {', '.join(inputs) or 'nothing'}, needed: {', '.join(needed)}."
            )
        got = inputs[name].shape
        fits = len(got) > len(shape) and (
            not shape or (got[-1] == shape[-1] and got[: len(shape) - 1] == shape[:-1])
        )
        if not fits or not inputs[name].size:
            raise InputError(f"the input {name} has shape {got}; expected {_words(shape)}, not empty.")
        if inputs[name].dtype.kind == "f" and not np.isfinite(inputs[name]).all():
            raise InputError(f"the input {name} holds NaN or infinity; expected finite numbers.")


def _needed(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Inputs by name, with what their outer axes must be: (layers, hidden) stands for (layers, ..., hidden)."""
    contract, hidden = config.contract, config.hidden_size
    if contract.embedding is not None:
        kinds = ["token_type_ids"] if contract.embedding.token_type else []
        return dict.fromkeys(("input_ids", "attention_mask", *kinds), ())
    needed: dict[str, tuple[int, ...]] = {"hidden_states": (hidden,)}
    if contract.attention_input:
        needed["attention_output"] = (config.num_hidden_layers, hidden)
    return needed


def _words(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, (*shape[:-1], '...', shape[-1])))})" if shape else "any"
