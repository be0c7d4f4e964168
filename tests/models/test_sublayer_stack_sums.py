"""What a SublayerStack's stream holds: attention's given part, the input once, a final norm, and random weights."""

from dataclasses import replace

import numpy as np
import pytest
from sampling import covered
from stack_forms import HIDDEN, LAYER, TABLE, checkpoint, config_of, random_input, run
from stack_formulas import stack
from sublayer_formulas import DTYPES, assert_close

from trtllm_ext.checkpoint import FORMS, write_checkpoint

BUDGET_S = 8

LAYERS = 2


@pytest.mark.parametrize(
    "name", ["gpt2", "gemma2_sandwich", "gptj_parallel", "neox_parallel_two_norms", "rezero"]
)
@pytest.mark.parametrize("wide", [False, True])
def test_attention_given(tmp_path, name, wide):
    dtype = "bfloat16" if wide else "float32"
    form = TABLE[name]
    if wide:
        form = replace(form, residual=replace(form.residual, stream_dtype="float32"))
    config = config_of(form, dtype, layers=3, attention_input=True)
    weights, x, given = (
        checkpoint(tmp_path / "c", config),
        random_input(config),
        random_input(config, 3, seed=4),
    )
    got = run(tmp_path / "c", x, attention_output=given)
    assert got.dtype == np.float32
    expected = stack(config, weights, x.astype(np.float64), given.astype(np.float64))
    assert_close(got, expected, dtype, factor=3)
    if form.residual.placement == "pre":
        # Beside it or after it: the two differ.
        other = replace(form.residual, parallel="shared_norm" if form.residual.parallel == "none" else "none")
        changed = config_of(replace(form, residual=other), dtype, layers=3, attention_input=True)
        assert np.abs(stack(changed, weights, x, given) - expected).max() > 0.1


def test_a_given_attention_that_overflows_is_clamped_too(tmp_path):
    config = config_of(FORMS["t5_clamped"], "float16", layers=1, attention_input=True)
    checkpoint(tmp_path / "c", config)
    x = np.full((1, HIDDEN), 60000.0, np.float16)
    got = run(tmp_path / "c", x, attention_output=x[None])
    assert np.isfinite(got).all()


@covered(stream=["model", "float32"], dtype=DTYPES, name=["llama_swiglu", "hyper_static"])
def test_final_norm(tmp_path, name, dtype, stream):
    form = FORMS[name]
    form = replace(form, residual=replace(form.residual, stream_dtype=stream))
    config = config_of(form, dtype, final_norm=LAYER)
    weights, x = checkpoint(tmp_path / "c", config), random_input(config)
    got = run(tmp_path / "c", x)
    assert got.dtype == DTYPES[dtype]
    assert_close(got, stack(config, weights, x.astype(np.float64)), dtype, factor=LAYERS)


# Of the others the stream itself is normalised, or mixed: the formulas' test has these. Experts are slow to build.
SUMS = [
    name
    for name, form in TABLE.items()
    if name in FORMS
    and form.mixture is None
    and form.residual.placement != "post"
    and form.residual.hyper_connections is None
]


@pytest.mark.parametrize("name", SUMS)
def test_without_contributions_the_input_comes_out_once(tmp_path, name):
    """With the last product's weights 0, and norms of that product without a bias, each layer adds nothing."""
    form = TABLE[name]
    config = config_of(form)
    weights = checkpoint(tmp_path / "c", config)
    last = {"branch": "post_layernorm.bias", "sandwich": "post_feedforward_layernorm.bias"}
    nothing = ("proj.weight", "proj.bias", last.get(form.residual.placement, "proj.bias"))
    values = {name: value * (not name.endswith(nothing)) for name, value in weights.items()}
    write_checkpoint(tmp_path / "c", config, lambda name, shape: iter([values[name].astype(np.float32)]))
    x = random_input(config)
    np.testing.assert_allclose(run(tmp_path / "c", x), x * form.residual.skip_scale**LAYERS, rtol=1e-6)


@pytest.mark.parametrize("name", TABLE)
def test_random_checkpoints_stay_around_1_and_change_what_passes(tmp_path, name):
    config = config_of(TABLE[name], layers=8)
    weights, x = checkpoint(tmp_path / "c", config), random_input(config).astype(np.float64)
    y = stack(config, weights, x)
    connections = TABLE[name].residual.hyper_connections
    count = 1 if connections is None else connections.num_streams
    skipped = TABLE[name].residual.skip_scale ** 8 if TABLE[name].residual.placement != "post" else 1
    assert 0.3 * min(skipped, 1) < y.std() / count < 5
    assert abs(np.corrcoef(x.ravel(), y.ravel())[0, 1]) < 0.99


@pytest.mark.parametrize("name", ["wide post", "float32_stream"])
def test_a_float32_stream_is_not_rounded_on_its_way(tmp_path, name):
    config = config_of(TABLE[name], "bfloat16")
    checkpoint(tmp_path / "c", config)
    got = run(tmp_path / "c", random_input(config))
    assert (got != got.astype(DTYPES["bfloat16"]).astype(np.float32)).mean() > 0.9
