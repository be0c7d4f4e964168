"""A whole model's points, from its config and a checkpoint's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from trtllm_ext.verify.formulas.attention import self_attention
from trtllm_ext.verify.formulas.feed_forward import (
    Array,
    Function,
    Weights,
    feed_forward,
    gated_feed_forward,
    linear,
)
from trtllm_ext.verify.formulas.hyper_connections import connect
from trtllm_ext.verify.formulas.mixture import mixture_of_experts, routing_margin
from trtllm_ext.verify.formulas.norms import norm
from trtllm_ext.verify.formulas.points import Point
from trtllm_ext.verify.formulas.residual import clamped_to_float16, contribution

# Told the name of a norm and what it is given.
Observer = Callable[[str, Array], None]

_EMBEDDING = "transformer.embedding"


def points_of(config: Any, weights: Mapping[str, Any], observe: Observer | None = None) -> list[Point]:
    """The points of a SublayerStack or an Encoder of one rank, under the names that its taps and outputs have.

    config: a ModelConfig. weights: under the checkpoint's names, of any type; widened to float64.
    observe: told of what every norm is given, as points are evaluated.
    """
    wide = {name: np.asarray(value).astype(np.float64) for name, value in weights.items()}
    model = _Model(config, wide, observe)
    return list(model.encoder() if config.contract.embedding is not None else model.stack())


def below(weights: Weights, prefix: str) -> dict[str, Array]:
    """The weights under a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def sublayer(form: Any, weights: Weights, inner_norm: Function | None) -> Function:
    """The feed-forward that a FeedForwardContract describes; weights: of `mlp`, under their own names."""
    options: dict[str, Any] = {"activation": form.activation}
    if form.gated:
        options |= {"clamp": np.inf if form.clamp is None else form.clamp, "gate_offset": form.gate_offset}
    one: Callable[..., Array] = partial(gated_feed_forward if form.gated else feed_forward, **options)
    if form.mixture is None:
        return lambda x: one(x, weights, inner_norm=inner_norm)
    renormalized = form.mixture.weights == "renormalized"
    return lambda x: mixture_of_experts(x, weights, one, form.mixture.top_k, renormalized)


class _Model:
    def __init__(self, config: Any, weights: Weights, observe: Observer | None) -> None:
        self.config, self.contract = config, config.contract
        self.weights, self.observe = weights, observe

    def norm(self, contract: Any, name: str) -> Function | None:
        """The norm of that name, watched."""
        function = norm(contract, self.weights, name)
        observe = self.observe
        if function is None or observe is None:
            return function

        def watched(x: Array) -> Array:
            observe(name, x)
            return function(x)

        return watched

    # --- whole models ---------------------------------------------------------------------------------------

    def stack(self) -> Iterator[Point]:
        """hidden_states to hidden_states_out."""
        connections = self.contract.feed_forward.residual.hyper_connections
        stream = "hidden_states"
        if connections is not None:
            stream = "transformer.streams"
            yield Point(
                stream,
                "transformer",
                ("hidden_states",),
                lambda x: np.repeat(x[..., None, :], connections.num_streams, -2),
            )
        for index in range(self.config.num_hidden_layers):
            *points, last = self.layer(index, stream)
            yield from (*points, last)
            stream = last.name
        final = self.norm(self.contract.final_norm, "transformer.ln_f") or _same
        yield Point(
            "hidden_states_out",
            "transformer.ln_f" if self.contract.final_norm is not None else "transformer",
            (stream,),
            lambda x: final(x if connections is None else x.sum(-2)),
            is_copy=final is _same and connections is None,
        )

    def encoder(self) -> Iterator[Point]:
        """Ids to last_hidden_state and sentence_embedding."""
        contract, pooling = self.contract, self.contract.pooling
        names = ("input_ids",) + (("token_type_ids",) if contract.embedding.token_type else ())
        stream = f"{_EMBEDDING}.output"
        yield Point(stream, _EMBEDDING, names, self.embedded)
        for index in range(self.config.num_hidden_layers):
            *points, last = self.layer(index, stream)
            yield from (*points, last)
            stream = last.name
        final = self.norm(contract.final_norm, "transformer.ln_f")
        where = "transformer.ln_f" if final is not None else "transformer"
        yield Point("last_hidden_state", where, (stream,), final or _same, is_copy=final is None)
        if pooling.kind != "none":
            sources = ("last_hidden_state", "attention_mask")
            yield Point("sentence_embedding", "transformer.pooling", sources, self.pooled)

    def embedded(self, input_ids: Array, token_type_ids: Array | None = None) -> Array:
        """Devlin et al. 2019, section 3: the sum of the tables' rows, then the norm."""
        contract = self.contract.embedding
        table = {
            name: self.weights[f"{_EMBEDDING}.{name}_embedding.weight"]
            for name in ("vocab", "position", *(["token"] if contract.token_type else []))
        }
        x = table["vocab"][input_ids]
        if token_type_ids is not None:
            x = x + table["token"][token_type_ids]
        x = x + table["position"][contract.position_offset :][: input_ids.shape[1]]
        normed = self.norm(contract.norm, f"{_EMBEDDING}.embedding_ln")
        return x if normed is None else normed(x)

    def pooled(self, x: Array, attention_mask: Array) -> Array:
        """One vector a sentence (Reimers, Gurevych 2019, section 3), as PoolingContract says."""
        pooling = self.contract.pooling
        keep = (attention_mask != 0)[..., None]
        x = (x * keep).sum(1) / np.maximum(keep.sum(1), 1e-9) if pooling.kind == "mean" else x[:, 0]
        if pooling.kind == "pooler":
            x = np.tanh(linear(x, self.weights, "transformer.pooler.dense"))
        return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12) if pooling.normalize else x

    # --- one layer ------------------------------------------------------------------------------------------

    def layer(self, index: int, stream: str) -> Iterator[Point]:
        """Attention or what is given in its place, then feed-forward; the last point is the layer's output."""
        path = f"transformer.layers.{index}"
        attention, form = self.contract.attention, self.contract.feed_forward
        if attention is not None:
            weights = below(self.weights, f"{path}.attention.")

            def attend(x: Array, mask: Array) -> Array:
                return self_attention(x, weights, self.config.num_attention_heads, mask != 0)

            names = (f"{path}.input_layernorm", f"{path}.post_layernorm")
            *points, last = self.block(
                path, "attention", stream, attend, attention.residual, names, ("attention_mask",)
            )
            yield from (*points, last)
            stream = last.name
        beside: tuple[str, ...] = ()
        if self.contract.attention_input:
            given = f"{path}.attention.contribution"
            if form.residual.parallel == "none":
                yield Point(f"{path}.attention.before", f"{path}.attention", (stream,), _same, is_copy=True)
                stream = f"{path}.attention.before"
            yield Point(given, f"{path}.attention", ("attention_output",), lambda every: every[index])
            if form.residual.parallel == "none":
                clamp = self._clamp(form.residual)
                after = f"{path}.attention.after"
                yield Point(after, f"{path}.attention", (stream, given), lambda x, y: clamp(x + y))
                stream = after
            else:
                beside = (given,)
        yield from self.feed_forward(path, stream, beside)

    def feed_forward(self, path: str, stream: str, beside: tuple[str, ...]) -> Iterator[Point]:
        form = self.contract.feed_forward
        inner_norm = self.norm(form.inner_norm, f"{path}.mlp.inner_layernorm")
        weights = below(self.weights, f"{path}.mlp.")
        names = (f"{path}.post_layernorm", "")
        if form.residual.placement == "sandwich":
            names = (f"{path}.pre_feedforward_layernorm", f"{path}.post_feedforward_layernorm")
        margin = None
        if form.mixture is not None:
            margin = partial(routing_margin, weights=weights, top_k=form.mixture.top_k)
        function = sublayer(form, weights, inner_norm)
        yield from self.block(path, "mlp", stream, function, form.residual, names, (), beside, margin)

    def block(
        self,
        path: str,
        name: str,
        stream: str,
        function: Callable[..., Array],
        form: Any,
        norm_names: tuple[str, str],
        others: tuple[str, ...] = (),
        beside: tuple[str, ...] = (),
        margin: Callable[..., Array] | None = None,
    ) -> Iterator[Point]:
        """before, contribution and after of a residual block, and its output.

        function: of the sublayer's input and the points `others`. beside: contributions that join in the same sum.
        margin: of the sublayer's input.
        """
        where = f"{path}.{name}"
        normed, post = (
            self.norm(each, label)
            for each, label in zip((form.norm, form.post_norm), norm_names, strict=True)
        )
        factor = form.scale * self._gate(form, where)
        connected = self._connected(form, where)

        def read(x: Array) -> Array:
            return x if connected is None else connected(x)[0]

        def contribute(x: Array, *more: Array) -> Array:
            return contribution(read(x), lambda y: function(y, *more), normed, form.placement, post, factor)

        def margin_of(x: Array, *_: Array) -> Array:
            assert margin is not None
            x = read(x)
            return margin(normed(x) if normed is not None and form.placement in ("pre", "sandwich") else x)

        clamp = self._clamp(form)

        def join(x: Array, *added: Array) -> Array:
            if connected is not None:
                _, mixed, beta = connected(x)
                return mixed + beta * added[0][..., None, :]
            return clamp(form.skip_scale * x + sum(added))

        yield Point(f"{where}.before", where, (stream,), _same, is_copy=True)
        before, added = f"{where}.before", f"{where}.contribution"
        yield Point(added, where, (before, *others), contribute, None if margin is None else margin_of)
        yield Point(f"{where}.after", where, (before, *beside, added), join)
        if form.placement == "post":
            assert normed is not None
            yield Point(f"{where}.output", where, (f"{where}.after",), normed)

    def _gate(self, form: Any, where: str) -> Any:
        if form.gate == "none":
            return 1.0
        gate = self.weights[f"{where}_scale.weight"]
        return np.tanh(gate) if form.gate == "tanh" else gate

    def _connected(self, form: Any, where: str) -> Callable[[Array], tuple[Array, Array, Array]] | None:
        connections = form.hyper_connections
        if connections is None:
            return None
        return partial(
            connect,
            w=below(self.weights, f"{where}_connections."),
            kind=connections.kind,
            eps=connections.eps,
            iterations=connections.sinkhorn_iterations,
            norm=connections.norm,
        )

    def _clamp(self, form: Any) -> Function:
        """T5's, which acts on a float16 stream only."""
        if form.clamp == "float16" and self.config.stream_dtype == "float16":
            return clamped_to_float16
        return _same


def _same(x: Array) -> Array:
    return x
