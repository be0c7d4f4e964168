"""A mixture of experts over several ranks against the formula of the whole one."""

from functools import partial

import numpy as np
import pytest
from rank_modules import run_module_on_ranks, same_on_every_rank, whole_weights
from small_mixture import expected, layer_of, tokens
from sublayer_formulas import assert_close

from trtllm_ext.errors import ConfigError

BUDGET_S = 8

pytestmark = pytest.mark.usefixtures("one_thread")

TOP_K = 2
FORMS = {
    "gated": {},
    "every bias": {"bias": True, "router_bias": True, "weights": "renormalized"},
    "bias of proj alone": {"proj_bias": True, "gated": False},
    "shared expert": {"shared_expert_intermediate_size": 16},
    "gated shared expert": {
        "shared_expert_intermediate_size": 16,
        "shared_expert_gate": True,
        "proj_bias": True,
    },
    "clamped": {"clamp": 0.5, "gate_offset": 1.0, "bias": True},
}


def run(make, weights, x, size, dtype="float32"):
    inputs = {"x": x} if isinstance(x, np.ndarray) else [{"x": part} for part in x]
    return run_module_on_ranks(make, weights, inputs, size, dtype)


CASES = [(name, 2 + 2 * (i % 2), "float32") for i, name in enumerate(FORMS)]
CASES += [
    ("every bias", 2, "float16"),
    ("gated shared expert", 4, "bfloat16"),
    pytest.param("every bias", 2, "bfloat16", marks=pytest.mark.long),
]


@pytest.mark.parametrize(("name", "size", "dtype"), CASES)
def test_experts_split_by_their_inner_dimension(name, size, dtype):
    form = {"top_k": TOP_K, **FORMS[name]}
    make = partial(layer_of, dtype, **form)
    weights, wide = whole_weights(make, dtype)
    x = tokens(dtype, wide, TOP_K)
    got = same_on_every_rank(run(make, weights, x, size, dtype))
    assert_close(got, expected(x, wide, **form), dtype)
    wrong = {
        "a bias on every rank": {"proj.bias": size},
        "shared gate on shares": {"shared_expert_gate.weight": 2},
    }
    for factors in wrong.values():
        ((weight, factor),) = factors.items()
        if weight in wide:
            with pytest.raises(AssertionError, match="largest error"):
                assert_close(got, expected(x, wide | {weight: factor * wide[weight]}, **form), dtype)


@pytest.mark.parametrize(
    ("name", "size"), [("gated", 4), ("bias of proj alone", 2), ("gated shared expert", 2)]
)
def test_experts_of_own_tokens(name, size):
    form = {"top_k": TOP_K, **FORMS[name]}
    make = partial(layer_of, sequence_parallel=True, **form)
    weights, wide = whole_weights(make, "float32")
    x = tokens("float32", wide, TOP_K, count=8)
    got = np.concatenate(run(make, weights, np.split(x, size), size))
    assert_close(got, expected(x, wide, **form), "float32")


def test_tokens_in_rows():
    make = partial(layer_of, top_k=TOP_K, bias=True)
    weights, wide = whole_weights(make, "float32")
    x = tokens("float32", wide, TOP_K, count=8)
    got = same_on_every_rank(run(make, weights, x.reshape(2, 4, -1), 2))
    assert_close(got, expected(x, wide, top_k=TOP_K).reshape(2, 4, -1), "float32")
    parts = run(partial(make, sequence_parallel=True), weights, np.split(x.reshape(2, 4, -1), 2), 2)
    assert_close(np.concatenate(parts), expected(x, wide, top_k=TOP_K).reshape(2, 4, -1), "float32")


def test_a_shared_expert_that_does_not_split():
    with pytest.raises(
        ConfigError, match=r"^shared_expert_intermediate_size=6 does not split over tp_size=4"
    ):
        layer_of(
            "float32",
            top_k=TOP_K,
            shared_expert_intermediate_size=6,
            tp_group=[0, 1, 2, 3],
            tp_size=4,
        )
