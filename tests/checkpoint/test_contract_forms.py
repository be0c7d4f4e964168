"""Every form as data: JSON there and back, and each field refused when unknown, missing or out of place."""

import copy
import json
from dataclasses import fields, is_dataclass, replace

import pytest
from stack_forms import TABLE, config_of

from trtllm_ext.checkpoint import (
    AttentionContract,
    Contract,
    EmbeddingContract,
    FeedForwardContract,
    HyperConnectionContract,
    MixtureContract,
    ModelConfig,
    NormContract,
    PoolingContract,
    ResidualContract,
)
from trtllm_ext.checkpoint.contract import CONTRACT_VERSION
from trtllm_ext.errors import ConfigError

BUDGET_S = 5

NORM = NormContract(kind="layer_norm", eps=1e-5, bias=True)
PRE = ResidualContract(placement="pre", norm=NORM, post_norm=None)
PLAIN = FeedForwardContract(gated=True, activation="silu", fc_bias=False, proj_bias=False, residual=PRE)
MIXTURE = MixtureContract(num_experts=4, top_k=2, weights="softmax", shared_expert_intermediate_size=8)
STREAMS = HyperConnectionContract(kind="dynamic", num_streams=2, eps=1e-5)
# A contract with every part that can stand beside the others.
WHOLE = Contract(
    version=CONTRACT_VERSION,
    embedding=None,
    attention=None,
    feed_forward=replace(PLAIN, mixture=MIXTURE, residual=replace(PRE, hyper_connections=STREAMS)),
    final_norm=NORM,
    pooling=None,
)
INNER = replace(WHOLE, feed_forward=replace(PLAIN, inner_norm=NORM))
ENCODER = ModelConfig(
    architecture="Encoder",
    dtype="bfloat16",
    hidden_size=8,
    num_hidden_layers=2,
    intermediate_size=16,
    num_attention_heads=2,
    vocab_size=11,
    max_position_embeddings=6,
    contract=Contract(
        version=CONTRACT_VERSION,
        embedding=EmbeddingContract(
            position="learned_absolute", token_type=False, norm=NORM, position_offset=2
        ),
        attention=AttentionContract(
            qkv_bias=True, dense_bias=True, scale="inverse_sqrt_head_size", mask="padding", residual=PRE
        ),
        feed_forward=PLAIN,
        final_norm=None,
        pooling=PoolingContract(kind="mean", normalize=True, max_seq_length=4),
    ),
)


@pytest.mark.parametrize("name", TABLE)
def test_each_form_goes_through_json_and_back(name):
    config = config_of(TABLE[name], "bfloat16", final_norm=NORM, source="a model, layers 0:2")
    assert ModelConfig.from_dict(json.loads(config.to_json())) == config


def places(contract):
    """(path, part) of each part of a contract, itself first."""

    def below(part, path):
        yield path, part
        for field in fields(part):
            value = getattr(part, field.name)
            if is_dataclass(value):
                yield from below(value, (*path, field.name))

    return list(below(contract, ()))


def at(data, path):
    for key in path:
        data = data[key]
    return data


EVERYWHERE = {
    ".".join(("contract", *path)): (whole, path) for whole in (WHOLE, INNER) for path, _ in places(whole)
}


@pytest.mark.parametrize("where", EVERYWHERE)
def test_at_every_level_each_missing_field_is_named(where):
    whole, path = EVERYWHERE[where]
    for name in at(whole.to_dict(), path):
        data = copy.deepcopy(whole.to_dict())
        del at(data, path)[name]
        with pytest.raises(ConfigError, match=f"{where} lacks the field '{name}'; it has "):
            Contract.from_dict(data)


@pytest.mark.parametrize("where", EVERYWHERE)
def test_at_every_level_each_misspelt_field_is_answered_with_the_nearest(where):
    whole, path = EVERYWHERE[where]
    for name in at(whole.to_dict(), path):
        data = copy.deepcopy(whole.to_dict())
        at(data, path)[f"{name}x"] = at(data, path)[name]
        with pytest.raises(
            ConfigError, match=f"{where} has the unknown field '{name}x'. Did you mean {name}( or .*)?[?]"
        ):
            Contract.from_dict(data)


@pytest.mark.parametrize("where", EVERYWHERE)
def test_at_every_level_a_value_of_another_type_is_refused(where):
    whole, path = EVERYWHERE[where]
    for name in at(whole.to_dict(), path):
        data = copy.deepcopy(whole.to_dict())
        at(data, path)[name] = {"a": ()}
        with pytest.raises(ConfigError, match=rf"{where}\.{name}(=| has the unknown field 'a')"):
            Contract.from_dict(data)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        (NORM, {"eps": 0.0}, "eps=0.0 must be above 0"),
        (NORM, {"eps": float("nan")}, "eps=nan must be above 0"),
        (NORM, {"kind": "rms_norm"}, "an rms_norm has no bias"),
        (NORM, {"rounding": "before_weight"}, "rounding='before_weight' is a form of the plain rms_norm"),
        (
            NORM,
            {"kind": "rms_norm", "bias": False, "weight_offset": 1.0, "rounding": "before_weight"},
            "rounding='before_weight' is a form of the plain rms_norm",
        ),
        (NORM, {"weight": False}, "a norm without a weight has no bias"),
        (STREAMS, {"num_streams": 0}, "num_streams=0 must be at least 1"),
        (STREAMS, {"eps": -1.0}, "eps=-1.0 must be above 0"),
        (STREAMS, {"eps": None}, "eps=None must be above 0"),
        (STREAMS, {"kind": "static"}, "eps=1e-05 with kind='static': this form has no norm; set it to null"),
        (
            STREAMS,
            {"kind": "static", "eps": None, "norm": "rms_norm"},
            "norm='rms_norm' with kind='static': only the dynamic form has a choice of norm",
        ),
        (
            STREAMS,
            {"kind": "manifold", "sinkhorn_iterations": 1, "norm": "rms_norm"},
            "norm='rms_norm' with kind='manifold': only the dynamic form",
        ),
        (STREAMS, {"sinkhorn_iterations": 3}, "sinkhorn_iterations=3 with kind='dynamic'"),
        (
            STREAMS,
            {"kind": "manifold"},
            "sinkhorn_iterations=0 with kind='manifold': the manifold form needs",
        ),
        (STREAMS, {"kind": "manifold", "sinkhorn_iterations": -1}, "sinkhorn_iterations=-1"),
        (PRE, {"norm": None}, r"placement='pre' needs norm: x \+ F\(norm\(x\)\)"),
        (PRE, {"post_norm": NORM}, "placement='pre' has no post_norm"),
        (
            PRE,
            {"parallel": "shared_norm", "scale": 0.5},
            "parallel='shared_norm' is known with placement 'pre'",
        ),
        (PRE, {"parallel": "separate_norms", "gate": "tanh"}, "parallel='separate_norms' is known with"),
        (PRE, {"parallel": "shared_norm", "placement": "post"}, "parallel='shared_norm' is known with"),
        (
            PRE,
            {"hyper_connections": STREAMS, "placement": "post"},
            "no single stream to normalise after the sum",
        ),
        (
            PRE,
            {"hyper_connections": STREAMS, "skip_scale": 2.0},
            "skip_scale=2.0 has no meaning with hyper_conn",
        ),
        (
            PRE,
            {"hyper_connections": STREAMS, "clamp": "float16"},
            "clamp='float16' has no meaning with hyper_conn",
        ),
        (
            PRE,
            {"hyper_connections": STREAMS, "parallel": "shared_norm"},
            "parallel='shared_norm' has no meaning",
        ),
        (MIXTURE, {"top_k": 5}, "top_k=5 must lie between 1 and num_experts=4"),
        (MIXTURE, {"top_k": 0}, "top_k=0 must lie between 1 and num_experts=4"),
        (
            MIXTURE,
            {"shared_expert_intermediate_size": 0},
            "shared_expert_intermediate_size=0 must be at least 1",
        ),
        (
            MIXTURE,
            {"shared_expert_intermediate_size": None, "shared_expert_gate": True},
            "shared_expert_gate needs a shared_expert_intermediate_size",
        ),
        (PLAIN, {"activation": "swish"}, "activation 'swish' is not known. Say 'silu'"),
        (PLAIN, {"clamp": 0.0}, "clamp=0.0 must be above 0, or null"),
        (PLAIN, {"gated": False, "clamp": 7.0}, "clamp and gate_offset belong to a gated feed-forward"),
        (PLAIN, {"gated": False, "gate_offset": 1.0}, "clamp and gate_offset belong to a gated feed-forward"),
        (PLAIN, {"inner_norm": NORM, "mixture": MIXTURE}, "experts of a mixture have no inner_norm"),
        (ENCODER.contract.embedding, {"position_offset": -1}, "position_offset=-1 must be at least 0"),
        (ENCODER.contract.pooling, {"max_seq_length": 0}, "max_seq_length=0 must be at least 1, or null"),
        (ENCODER.contract.pooling, {"kind": "none"}, "'none' leaves nothing to normalize"),
        (WHOLE, {"version": 1}, "contract version 1 is not known; this version reads version 2"),
        (WHOLE, {"attention_input": True}, "attention_input adds to the stream"),
        (ENCODER.contract, {"attention_input": True}, "attention_input stands in place of attention"),
    ],
)
def test_parts_that_contradict_each_other_are_refused(part, changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(part, **changes)


@pytest.mark.parametrize("changes", [{"placement": "post"}, {"skip_scale": 1.5}])
def test_attention_input_says_nothing_of_other_skips(changes):
    form = replace(PLAIN, residual=replace(PRE, **changes))
    with pytest.raises(ConfigError, match="attention_input adds to the stream"):
        config_of(form, attention_input=True)


def encoder(**changes):
    """ENCODER with changed fields of feed_forward's residual; attention's as it is, or changed as `attention` says."""
    attention = changes.pop("attention", {})
    contract = ENCODER.contract
    feed_forward = replace(PLAIN, residual=replace(PRE, **changes))
    changed = replace(contract.attention, residual=replace(PRE, **attention))
    return replace(ENCODER, contract=replace(contract, feed_forward=feed_forward, attention=changed))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: encoder(stream_dtype="float32"),
            "stream_dtype='model' of attention with stream_dtype='float32'",
        ),
        (
            lambda: encoder(hyper_connections=STREAMS),
            "hyper_connections=None of attention with hyper_connections=Hyper",
        ),
        (
            lambda: encoder(hyper_connections=STREAMS, attention={"hyper_connections": STREAMS}),
            "is not known in an Encoder",
        ),
        (
            lambda: encoder(parallel="shared_norm", attention={"parallel": "shared_norm"}),
            "parallel='shared_norm' of attention with parallel='shared_norm'",
        ),
        (lambda: encoder(placement="sandwich", post_norm=NORM), "'sandwich' must hold for both"),
        (
            lambda: replace(
                ENCODER, contract=replace(ENCODER.contract, attention=None, attention_input=True)
            ),
            "attention_input belongs to a SublayerStack",
        ),
        (
            lambda: replace(ENCODER, architecture="SublayerStack"),
            "'SublayerStack' has no embedding in its contract",
        ),
        (lambda: replace(ENCODER, contract=WHOLE), "'Encoder' needs embedding in its contract"),
        (
            lambda: replace(ENCODER, max_position_embeddings=2),
            "=2 leaves no position after position_offset=2",
        ),
        (
            lambda: replace(ENCODER, max_position_embeddings=5),
            "max_seq_length=4 is more than the model's 3 positions",
        ),
        (
            lambda: replace(ENCODER, type_vocab_size=2),
            "type_vocab_size=2, but the contract's embedding has no use",
        ),
        (lambda: replace(ENCODER, vocab_size=None), "vocab_size=None, but the contract's embedding needs it"),
        (
            lambda: replace(ENCODER, hidden_size=9, head_size=0),
            "hidden_size=9 does not split over num_attention",
        ),
        (lambda: replace(ENCODER, intermediate_size=0), "intermediate_size=0 must be at least 1"),
    ],
)
def test_configs_that_contradict_the_contract_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_the_stream_type_of_a_config():
    assert ENCODER.stream_dtype == "bfloat16"
    assert encoder(stream_dtype="float32", attention={"stream_dtype": "float32"}).stream_dtype == "float32"
    assert ENCODER.num_positions == 4
