"""A SublayerStack in float64 numpy, from its contract: the formulas of the parts, put together."""

from functools import partial

import numpy as np
from hyper_connection_formulas import connected_residual
from sublayer_formulas import (
    feed_forward,
    gated_feed_forward,
    layer_norm,
    mixture_of_experts,
    residual,
    rms_norm,
)


def below(weights, prefix):
    """The weights under a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def norm(contract, weights, name):
    """The norm as a function, or None."""
    if contract is None:
        return None
    weight = weights[f"{name}.weight"] + contract.weight_offset if contract.weight else 1.0
    if contract.kind == "rms_norm":
        return lambda x: rms_norm(x, weight, contract.eps)
    return lambda x: layer_norm(x, weight, weights.get(f"{name}.bias", 0.0), contract.eps)


def sublayer(form, weights):
    """The feed-forward as a function; weights: of `mlp`, under their own names."""
    options = {"activation": form.activation}
    if form.gated:
        options |= {"clamp": np.inf if form.clamp is None else form.clamp, "gate_offset": form.gate_offset}
    one = partial(gated_feed_forward if form.gated else feed_forward, **options)
    if form.mixture is None:
        return lambda x: one(x, weights, inner_norm=norm(form.inner_norm, weights, "inner_layernorm"))
    renormalized = form.mixture.weights == "renormalized"
    return lambda x: mixture_of_experts(x, weights, one, form.mixture.top_k, renormalized)


def layer(x, form, weights, attention_output=None):
    """One layer of a stack; x: (tokens, hidden), or (tokens, streams, hidden) with hyper-connections."""
    block = form.residual
    names = ("post_layernorm", "")
    if block.placement == "sandwich":
        names = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
    norms = [
        norm(each, weights, name) for each, name in zip((block.norm, block.post_norm), names, strict=True)
    ]
    gate = weights.get("mlp_scale.weight", 1.0)
    rest = {"scale": block.scale, "gate": np.tanh(gate) if block.gate == "tanh" else gate}
    rest["skip_scale"] = block.skip_scale
    f = sublayer(form, below(weights, "mlp."))
    connections = block.hyper_connections
    if connections is not None:
        options = {"eps": connections.eps, "iterations": connections.sinkhorn_iterations}
        options["norm"] = connections.norm
        own = below(weights, "mlp_connections.")

        def contribution(x):
            return residual(x, f, norms[0], block.placement, norms[1], **rest) - x

        return connected_residual(x, contribution, own, connections.kind, **options)
    if attention_output is None:
        return residual(x, f, norms[0], block.placement, norms[1], **rest)
    if block.parallel == "none":
        return residual(x + attention_output, f, norms[0], block.placement, norms[1], **rest)
    return residual(x, f, norms[0], block.placement, norms[1], **rest) + attention_output


def stack(config, weights, x, attention_output=None):
    """hidden_states_out. weights: float64, under the checkpoint's names; attention_output: (layers, tokens, hidden)."""
    form = config.contract.feed_forward
    connections = form.residual.hyper_connections
    if connections is not None:
        x = np.repeat(x[..., None, :], connections.num_streams, -2)
    for i in range(config.num_hidden_layers):
        given = None if attention_output is None else attention_output[i]
        x = layer(x, form, below(weights, f"transformer.layers.{i}."), given)
    x = x if connections is None else x.sum(-2)
    final = norm(config.contract.final_norm, weights, "transformer.ln_f")
    return x if final is None else final(x)
