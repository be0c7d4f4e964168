"""The names and shapes of the weights that each form calls for, whole and over ranks."""

from dataclasses import replace

import pytest
from stack_forms import FFN, HIDDEN, TABLE, config_of

from trtllm_ext.checkpoint import expected_weights
from trtllm_ext.errors import ConfigError
from trtllm_ext.parallel import Mapping

BUDGET_S = 3


def shapes(name, tp_size=1):
    """The first layer's weights, without the prefix."""
    config = config_of(TABLE[name])
    config = replace(config, mapping=Mapping(world_size=tp_size, tp_size=tp_size))
    weights = expected_weights(config)
    return {n.removeprefix("transformer.layers.0."): v for n, v in weights.items() if ".layers.0." in n}


D, F = HIDDEN, FFN
VECTOR = (D,)
GATED = {"mlp.fc.weight": (F, D), "mlp.gate.weight": (F, D), "mlp.proj.weight": (D, F)}
RMS_LAYER = {**GATED, "post_layernorm.weight": VECTOR}
BIASED = {"mlp.fc.weight": (F, D), "mlp.fc.bias": (F,), "mlp.proj.weight": (D, F), "mlp.proj.bias": VECTOR}
GPT = {**BIASED, "post_layernorm.weight": VECTOR, "post_layernorm.bias": VECTOR}
EXPERTS = {"mlp.fc.weight": (4, F, D), "mlp.gate.weight": (4, F, D), "mlp.proj.weight": (4, D, F)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt2", GPT),
        ("neox_parallel_two_norms", GPT),
        ("deepnorm", GPT),
        ("llama_swiglu", RMS_LAYER),
        ("olmo2_branch", RMS_LAYER),
        ("norm_without_weights", GATED),
        (
            "gemma2_sandwich",
            {
                **GATED,
                "pre_feedforward_layernorm.weight": VECTOR,
                "post_feedforward_layernorm.weight": VECTOR,
            },
        ),
        ("layer_scale", {**GPT, "mlp_scale.weight": VECTOR}),
        ("rezero", {**BIASED, "mlp_scale.weight": (1,)}),
        ("tanh_gate", {**RMS_LAYER, "mlp_scale.weight": (1,)}),
        ("inner_norm", {**GPT, "mlp.inner_layernorm.weight": (F,), "mlp.inner_layernorm.bias": (F,)}),
        (
            "gpt_oss_clamped",
            {
                **EXPERTS,
                "mlp.router.weight": (4, D),
                "mlp.router.bias": (4,),
                "mlp.fc.bias": (4, F),
                "mlp.gate.bias": (4, F),
                "mlp.proj.bias": (4, D),
                "post_layernorm.weight": VECTOR,
            },
        ),
        (
            "mixture_softmax_shared",
            {
                **EXPERTS,
                "mlp.router.weight": (4, D),
                "mlp.shared_expert.fc.weight": (64, D),
                "mlp.shared_expert.gate.weight": (64, D),
                "mlp.shared_expert.proj.weight": (D, 64),
                "mlp.shared_expert_gate.weight": (1, D),
                "post_layernorm.weight": VECTOR,
            },
        ),
        (
            "hyper_static",
            {**RMS_LAYER, "mlp_connections.static_beta": (4,), "mlp_connections.static_alpha": (4, 5)},
        ),
    ],
)
def test_names_and_shapes_of_weights(name, expected):
    assert shapes(name) == expected


@pytest.mark.parametrize("name", TABLE)
def test_over_two_ranks_the_feed_forward_width_is_split_and_nothing_else(name):
    whole, half = shapes(name), shapes(name, tp_size=2)
    assert list(whole) == list(half)
    split = {"fc.weight": -2, "gate.weight": -2, "proj.weight": -1, "fc.bias": -1, "gate.bias": -1}
    split |= {"inner_layernorm.weight": -1, "inner_layernorm.bias": -1}
    for weight, shape in whole.items():
        expected, last = list(shape), ".".join(weight.split(".")[-2:])
        if weight.startswith("mlp.") and last in split:
            expected[split[last]] //= 2
        assert half[weight] == tuple(expected), weight


def test_a_width_that_does_not_split_is_refused():
    mapping = Mapping(world_size=3, tp_size=3)
    with pytest.raises(ConfigError, match="intermediate_size=40 does not split over tp_size=3"):
        expected_weights(replace(config_of(TABLE["llama_swiglu"]), mapping=mapping))
    config = replace(config_of(TABLE["mixture_softmax_shared"]), intermediate_size=6, mapping=mapping)
    with pytest.raises(ConfigError, match="shared_expert_intermediate_size=64 does not split over tp_size=3"):
        expected_weights(config)
