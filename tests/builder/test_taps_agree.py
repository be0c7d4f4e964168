"""A build with taps computes what one without does, and the taps hold what their names say."""

import numpy as np
import pytest
from sampling import covered
from sublayer_formulas import DTYPES, layer_norm
from tapped import (
    GATED,
    HIDDEN,
    LAYERS,
    PLAIN,
    POINTS,
    TOKENS,
    WIDE,
    OfParts,
    model_of,
    names,
    run,
    sentences,
    stack,
    tokens,
)

from trtllm_ext.checkpoint import (
    PLACEMENTS,
    FeedForwardContract,
    NormContract,
    ResidualContract,
    stack_config,
)
from trtllm_ext.models import encoder_config

BUDGET_S = 8

FORMS = {"plain": PLAIN, "gated": GATED}


def compare(model, inputs, limit, **settings):
    plain, tapped = run(model, inputs, **settings), run(model, inputs, taps=["*"], **settings)
    assert len(tapped) > len(plain)
    for name, value in plain.items():
        if not limit:
            assert value.tobytes() == tapped[name].tobytes(), name
        wide = value.astype(np.float64)
        assert np.abs(tapped[name] - wide).max() <= limit * np.abs(wide).max(), name
    return tapped


@covered(placement=PLACEMENTS, form=FORMS, deterministic=[True, False])
def test_a_tapped_stack_computes_the_same(form, placement, deterministic):
    model = model_of(stack(FORMS[form], placement=placement))
    compare(model, tokens(), 0 if deterministic else 1e-6, deterministic=deterministic)


@covered(form=FORMS, placement=["pre", "post"], dtype=["float16", "bfloat16"])
def test_a_tapped_stack_of_a_narrow_type_computes_the_same_bits(form, placement, dtype):
    model = model_of(stack(FORMS[form], placement=placement, dtype=dtype))
    tapped = compare(model, tokens(dtype), 0, deterministic=True)
    assert {value.dtype for value in tapped.values()} == {np.dtype(DTYPES[dtype])}


@pytest.mark.parametrize(
    ("dtype", "deterministic", "limit"),
    [("float32", False, 1e-6), *((dtype, True, 0) for dtype in DTYPES)],
)
def test_a_tapped_encoder_computes_the_same(dtype, deterministic, limit):
    config = encoder_config(
        hidden_size=HIDDEN,
        ffn_hidden_size=80,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        vocab_size=50,
        max_position_embeddings=16,
        dtype=dtype,
    )
    tapped = compare(model_of(config), sentences(), limit, deterministic=deterministic)
    assert set(names(sublayers=("attention", "mlp"))) < set(tapped)


@pytest.mark.parametrize("rows", [-1, pytest.param(TOKENS, marks=pytest.mark.long)])
def test_a_tap_in_the_middle_of_anything_that_fuses(rows):
    """No number depends at the basic level on which tensors of a product, a GELU or a norm are outputs."""
    model, x = OfParts(rows), np.random.default_rng(3).normal(size=(TOKENS, WIDE)).astype(np.float32)
    plain = run(model, {"x": x}, deterministic=True)["y"]
    noted = list(run(model, {"x": x}, deterministic=True, taps=["*"]))[1:]
    assert len(noted) == 17
    for name in noted:
        tapped = run(model, {"x": x}, deterministic=True, taps=[name])
        assert list(tapped) == ["y", name]
        assert tapped["y"].tobytes() == plain.tobytes(), name


# What they hold


@pytest.mark.parametrize("placement", [name for name in PLACEMENTS if name != "post"])
def test_the_stream_is_its_beginning_and_all_contributions(placement):
    inputs = tokens()
    got = run(model_of(stack(GATED, placement=placement, scale=0.5)), inputs, taps=["*.contribution"])
    assert list(got) == ["hidden_states_out", *names()[1::3]]
    x, *rest = (value.astype(np.float64) for value in (inputs["hidden_states"], *got.values()))
    final, contributions = rest[0], rest[1:]
    np.testing.assert_allclose(x + sum(contributions), final, atol=1e-6 * np.abs(final).max())
    assert all(np.abs(each).max() > 1e-2 for each in contributions)


def test_each_add_of_a_stack_with_its_norm_behind():
    model = model_of(stack(placement="post"))
    weights = {name: parameter.raw_value.astype(np.float64) for name, parameter in model.named_parameters()}
    got = run(model, tokens(), taps=["*"])
    before, contribution, after = (
        [got[f"transformer.layers.{i}.mlp.{point}"].astype(np.float64) for i in range(LAYERS)]
        for point in POINTS
    )
    ends = [*before[1:], got["hidden_states_out"]]
    for i in range(LAYERS):
        np.testing.assert_allclose(before[i] + contribution[i], after[i], atol=1e-6 * np.abs(after[i]).max())
        norm = f"transformer.layers.{i}.post_layernorm"
        normed = layer_norm(after[i], weights[f"{norm}.weight"], weights[f"{norm}.bias"], 1e-5)
        np.testing.assert_allclose(ends[i], normed, atol=1e-6 * np.abs(normed).max())


def test_inputs_outputs_and_tensors_of_two_names():
    inputs = tokens()
    got = run(model_of(stack()), inputs, taps=["*.after", "*.before"])
    first, last = "transformer.layers.0.mlp", f"transformer.layers.{LAYERS - 1}.mlp"
    np.testing.assert_array_equal(got[f"{first}.before"], inputs["hidden_states"])
    np.testing.assert_array_equal(got[f"{last}.after"], got["hidden_states_out"])
    np.testing.assert_array_equal(got[f"{first}.after"], got[f"{last}.before"])


def test_a_wide_stream_is_tapped_in_its_own_type():
    norm = NormContract(kind="rms_norm", eps=1e-5, bias=False)
    residual = ResidualContract(
        placement="pre", norm=norm, post_norm=None, gate="channel", skip_scale=0.5, stream_dtype="float32"
    )
    feed_forward = FeedForwardContract(
        gated=False, activation="relu", fc_bias=True, proj_bias=False, residual=residual
    )
    config = stack_config(
        feed_forward, hidden_size=HIDDEN, ffn_hidden_size=80, num_hidden_layers=1, dtype="bfloat16"
    )
    got = compare(model_of(config), tokens(), 0, deterministic=True)
    before, contribution, after = (got[f"transformer.layers.0.mlp.{point}"] for point in POINTS)
    assert {value.dtype for value in got.values()} == {np.dtype(np.float32)}
    np.testing.assert_allclose(before * 0.5 + contribution, after, atol=1e-6)
