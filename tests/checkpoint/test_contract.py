"""The contract: round trip, and everything unknown, missing or contradictory refused by name."""

import copy
import json

import pytest

from trtllm_ext.checkpoint import (
    ACTIVATIONS,
    PLACEMENTS,
    AttentionContract,
    Contract,
    EmbeddingContract,
    FeedForwardContract,
    NormContract,
    PoolingContract,
    ResidualContract,
    check_activation,
)
from trtllm_ext.checkpoint.contract import CONTRACT_VERSION
from trtllm_ext.errors import ConfigError

BUDGET_S = 5

NORM = NormContract(kind="layer_norm", eps=1e-12, bias=True)
POST = ResidualContract(placement="post", norm=NORM, post_norm=None, scale=1.0)
BERT = Contract(
    version=CONTRACT_VERSION,
    embedding=EmbeddingContract(position="learned_absolute", token_type=True, norm=NORM),
    attention=AttentionContract(
        qkv_bias=True, dense_bias=True, scale="inverse_sqrt_head_size", mask="padding", residual=POST
    ),
    feed_forward=FeedForwardContract(
        gated=False, activation="gelu_erf", fc_bias=True, proj_bias=True, residual=POST
    ),
    final_norm=None,
    pooling=PoolingContract(kind="mean", normalize=True, max_seq_length=128),
)


def test_round_trip_through_json():
    assert Contract.from_dict(json.loads(json.dumps(BERT.to_dict()))) == BERT


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_accepted(name):
    assert check_activation(name) == name


def test_plain_gelu_is_ambiguous():
    with pytest.raises(ConfigError, match=r"'gelu' is ambiguous: .*'gelu_erf' or 'gelu_tanh'"):
        check_activation("gelu")


def test_an_unknown_activation_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"'sillu' is not known. Did you mean silu"):
        check_activation("sillu")


def _changed(path, value):
    data = copy.deepcopy(BERT.to_dict())
    place = data
    for key in path[:-1]:
        place = place[key]
    if value is KeyError:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("version",), 3, "contract version 3 is not known; this version reads version 2"),
        (("version",), True, "contract.version=True is not of type int"),
        (("final_norm",), KeyError, "contract lacks the field 'final_norm'"),
        (("poling",), None, "contract has the unknown field 'poling'. Did you mean pooling"),
        (("embedding", "position"), "rotary", "contract.embedding.position='rotary' is not known"),
        (
            ("embedding", "norm", "kind"),
            "layernorm",
            "kind='layernorm' is not known. Did you mean layer_norm",
        ),
        (("embedding", "norm", "eps"), 0, "eps=0.0 must be above 0"),
        (("embedding", "norm", "eps"), "1e-5", "contract.embedding.norm.eps='1e-5' is not a finite number"),
        (("embedding", "norm"), [], r"contract.embedding.norm is \[\], expected an object"),
        (("attention", "mask"), "causal", "contract.attention.mask='causal' is not known"),
        (("attention", "clamp"), 1.0, "contract.attention has the unknown field 'clamp'"),
        (("feed_forward", "activation"), "gelu", "'gelu' is ambiguous"),
        (("feed_forward", "gated"), 1, "contract.feed_forward.gated=1 is not of type bool"),
        (("feed_forward", "residual", "placement"), "parallel", "placement='parallel' is not known"),
        (("feed_forward", "residual", "norm"), None, "placement='post' needs norm"),
        (("feed_forward", "residual", "scale"), None, "residual.scale=None is not a finite number"),
        (("pooling", "kind"), "max", "contract.pooling.kind='max' is not known"),
        (("pooling", "kind"), "none", "'none' leaves nothing to normalize"),
        (("pooling", "max_seq_length"), 0, "contract.pooling: max_seq_length=0 must be at least 1, or null"),
        (("pooling", "max_seq_length"), 128.0, "contract.pooling.max_seq_length=128.0 is not of type int"),
        (("pooling", "max_seq_length"), KeyError, "contract.pooling lacks the field 'max_seq_length'"),
    ],
)
def test_what_is_not_known_is_refused_by_name(path, value, message):
    with pytest.raises(ConfigError, match=message):
        Contract.from_dict(_changed(path, value))


def test_a_contract_must_be_an_object():
    with pytest.raises(ConfigError, match=r"contract is None, expected an object"):
        Contract.from_dict(None)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_each_placement_takes_its_norms_and_no_others(placement):
    norms = {
        "norm": NORM if placement != "none" else None,
        "post_norm": NORM if placement == "sandwich" else None,
    }
    ResidualContract(placement=placement, scale=1.0, **norms)
    for name, norm in norms.items():
        with pytest.raises(ConfigError, match=f"placement='{placement}' (needs|has no) {name}"):
            ResidualContract(placement=placement, scale=1.0, **{**norms, name: None if norm else NORM})


def test_an_rms_norm_has_no_bias():
    with pytest.raises(ConfigError, match=r"rms_norm has no bias"):
        NormContract(kind="rms_norm", eps=1e-6, bias=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("relu2", r"'relu2' is not known. Say 'squared_relu': max\(x, 0\)\^2\."),
        ("swish", r"Say 'silu': "),
        ("gelu_fancy", r"Say 'gelu_erf', x/2 .*, or 'gelu_tanh', x/2 "),
        ("sillu", r"Did you mean silu"),
        (["relu"], r"is not known"),
    ],
)
def test_hints_for_activations(name, message):
    with pytest.raises(ConfigError, match=message):
        check_activation(name)
