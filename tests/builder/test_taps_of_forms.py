"""Every form of a stack computes with taps what it computes without, at both fusion levels, and its taps add up."""

import numpy as np
import pytest
from sampling import covered, thinned
from stack_forms import LAYER, TABLE, config_of, random_input
from tapped import model_of, run

BUDGET_S = 10

pytestmark = pytest.mark.usefixtures("one_thread")

POINTS = ("before", "contribution", "after")
PARALLEL = {name: form for name, form in TABLE.items() if form.residual.parallel != "none"}
# Single feed-forwards on one stream with a sum that nothing changes: x goes in, x and all contributions come out.
SUMS = {
    name: form
    for name, form in TABLE.items()
    if form.residual.hyper_connections is None
    and form.residual.placement != "post"
    and form.residual.skip_scale == 1.0
    and form.mixture is None
}


def inputs_of(config):
    inputs = {"hidden_states": random_input(config)}
    if config.contract.attention_input:
        inputs["attention_output"] = random_input(config, config.num_hidden_layers, seed=4)
    return inputs


def outputs(form, taps, *, deterministic, attention_input=False):
    """What a float32 engine of one layer with a norm behind its sum, as a next layer's would be, computes, by name."""
    config = config_of(
        form, layers=1, final_norm=form.residual.norm or LAYER, attention_input=attention_input
    )
    return run(model_of(config), inputs_of(config), taps=taps, deterministic=deterministic)


def check_taps_change_nothing(form, deterministic, **settings):
    plain, tapped = (
        outputs(form, taps, deterministic=deterministic, **settings)["hidden_states_out"]
        for taps in ([], ["*"])
    )
    if deterministic:
        assert tapped.tobytes() == plain.tobytes()
    assert np.abs(tapped - plain).max() <= 1e-6 * np.abs(plain).max()


@covered(name=TABLE, deterministic=[True, False])
def test_a_tapped_form_computes_the_same(name, deterministic):
    check_taps_change_nothing(TABLE[name], deterministic)


@covered(name=[*PARALLEL, "llama_swiglu", "t5_clamped"], deterministic=[True, False])
def test_a_tapped_form_beside_a_given_attention_computes_the_same(name, deterministic):
    check_taps_change_nothing(TABLE[name], deterministic, attention_input=True)


@pytest.mark.parametrize("name", thinned(SUMS, every=2))
def test_the_contributions_of_both_sublayers_make_the_output(name):
    config = config_of(TABLE[name], layers=1, attention_input=True)
    inputs = inputs_of(config)
    got = run(model_of(config), inputs, taps=["*.contribution"])
    given, fed = (f"transformer.layers.0.{sublayer}.contribution" for sublayer in ("attention", "mlp"))
    assert set(got) == {"hidden_states_out", given, fed}
    final = got.pop("hidden_states_out")
    total = inputs["hidden_states"] + sum(each.astype(np.float64) for each in got.values())
    np.testing.assert_allclose(total, final, atol=1e-6 * np.abs(final).max())
    np.testing.assert_array_equal(got[given], inputs["attention_output"][0])
    assert np.abs(got[fed]).max() > 1e-3


def test_a_parallel_layer_is_tapped_around_both():
    form = PARALLEL["gptj_parallel"]
    got = outputs(form, ["*"], deterministic=True, attention_input=True)
    before, fed, after = (got[f"transformer.layers.0.mlp.{point}"] for point in POINTS)
    total = before.astype(np.float64) + got["transformer.layers.0.attention.contribution"] + fed
    np.testing.assert_allclose(total, after, atol=1e-6 * np.abs(after).max())
    assert "transformer.layers.0.attention.after" not in got
