"""Forms of SublayerStacks for tests: known models' and others, and how to write, run and feed a small one."""

from dataclasses import replace

import numpy as np
from sublayer_formulas import DTYPES

import trtllm_ext as tx
from trtllm_ext.checkpoint import (
    FORMS,
    FeedForwardContract,
    HyperConnectionContract,
    NormContract,
    ResidualContract,
    load_checkpoint,
    stack_config,
)
from trtllm_ext.models import model_from_checkpoint, write_random_checkpoint

HIDDEN, FFN, TOKENS = 16, 40, 9

LAYER = NormContract(kind="layer_norm", eps=1e-3, bias=True, weight_offset=1.0)
RMS = NormContract(kind="rms_norm", eps=1e-3, bias=False)
BARE = NormContract(kind="rms_norm", eps=1e-3, bias=False, weight=False)


def residual(placement="pre", norm=LAYER, post_norm=None, **more):
    return ResidualContract(placement=placement, norm=norm, post_norm=post_norm, **more)


def plain(gated=False, activation="silu", fc_bias=True, proj_bias=False, **more):
    return FeedForwardContract(
        gated=gated,
        activation=activation,
        fc_bias=fc_bias,
        proj_bias=proj_bias,
        **{"residual": residual(), **more},
    )


def streams(kind, count, **more):
    eps = None if kind == "static" else 1e-3
    return HyperConnectionContract(kind=kind, num_streams=count, eps=eps, **more)


def small(form):
    """The form with fewer experts: the same formula in less time."""
    if form.mixture is None:
        return form
    return replace(form, mixture=replace(form.mixture, num_experts=4, top_k=form.mixture.top_k // 2))


SHARED = small(FORMS["mixture_softmax_shared"])
# What no well-known model combines.
OTHERS = {
    "fc bias only": plain(),
    "proj bias only": plain(gated=True, fc_bias=False, proj_bias=True),
    "clamped": plain(gated=True, clamp=0.5, gate_offset=0.25, inner_norm=RMS),
    "tanh": plain(activation="tanh", inner_norm=LAYER),
    "sigmoid": plain(activation="sigmoid", residual=residual("none", None, skip_scale=0.5)),
    "identity": plain(activation="identity", residual=residual("post", RMS, scale=-0.5, skip_scale=1.3)),
    "plain experts": replace(SHARED, gated=False, fc_bias=True, proj_bias=True),
    "shared expert without a gate": replace(
        SHARED,
        mixture=replace(SHARED.mixture, num_experts=3, shared_expert_gate=False, router_bias=True),
    ),
    "no weight in a branch": plain(residual=residual("branch", BARE, stream_dtype="float32")),
    "every factor": plain(
        residual=residual("sandwich", LAYER, RMS, scale=0.3, skip_scale=0.7, gate="channel", clamp="float16"),
    ),
    "wide post": plain(residual=residual("post", stream_dtype="float32", gate="scalar")),
    "wide sandwich": plain(residual=residual("sandwich", RMS, LAYER, stream_dtype="float32", gate="tanh")),
    "wide parallel": plain(residual=residual(parallel="shared_norm", stream_dtype="float32")),
    "wide streams": plain(residual=residual(stream_dtype="float32", hyper_connections=streams("dynamic", 2))),
    "gated streams": plain(
        residual=residual(
            *("sandwich", RMS, LAYER),
            gate="tanh",
            scale=0.5,
            hyper_connections=streams("dynamic", 3, norm="rms_norm"),
        )
    ),
    "one stream": plain(residual=residual("branch", hyper_connections=streams("static", 1))),
    "few iterations": plain(
        residual=residual(
            "none", None, gate="scalar", hyper_connections=streams("manifold", 3, sinkhorn_iterations=2)
        )
    ),
}
TABLE = {name: small(form) for name, form in FORMS.items()} | OTHERS


def config_of(form, dtype="float32", layers=2, **more):
    return stack_config(
        form, hidden_size=HIDDEN, ffn_hidden_size=FFN, num_hidden_layers=layers, dtype=dtype, **more
    )


def checkpoint(path, config, seed=1):
    """Write a random checkpoint; returns its weights as float64."""
    write_random_checkpoint(path, config, seed=seed)
    return {name: value.astype(np.float64) for name, value in load_checkpoint(path).weights.items()}


def run(path, x, **others):
    engine = tx.build(model_from_checkpoint(path), tx.BuildConfig(max_num_tokens=32)).engine
    with tx.Session.from_serialized_engine(engine) as session:
        return session.run({"hidden_states": x, **others})["hidden_states_out"]


def random_input(config, *front, seed=3):
    x = np.random.default_rng(seed).normal(size=(*front, TOKENS, HIDDEN))
    return x.astype(DTYPES[config.stream_dtype])
