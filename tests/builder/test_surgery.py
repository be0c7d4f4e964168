"""What a run may change of an engine's stream: every form against float64, and nothing where nothing is asked for."""

import json
import logging
import re

import numpy as np
import pytest
from encoder_formulas import sentences, small_config
from operated import engine_of, model_of, random_changes, reference, run, session_of
from stack_forms import HIDDEN, TABLE, TOKENS, config_of, plain, random_input
from sublayer_formulas import DTYPES

import trtllm_ext as tx
from trtllm_ext.builder import Engine, EngineConfig
from trtllm_ext.builder.trace import trace
from trtllm_ext.errors import ConfigError, EngineError
from trtllm_ext.graph import changes, either
from trtllm_ext.verify.formulas import evaluate, points_of

BUDGET_S = 5

pytestmark = pytest.mark.usefixtures("one_thread")

# The first change scales the numbers by tens: what is lost is some roundings of a float32 of that size.
LIMIT = 3e-6
# One of each placement, and of what else stands around a sum.
FEW = (
    *("gpt2", "bert", "olmo2_branch", "gemma2_sandwich", "gptj_parallel", "wide streams", "t5_clamped"),
    *("sigmoid", "layer_scale"),
)
POINT = "transformer.layers.0.mlp.contribution"


def weights_of(model):
    return {name: parameter.raw_value for name, parameter in model.named_parameters()}


def inputs_of(config):
    inputs = {"hidden_states": random_input(config)}
    if config.contract.attention_input:
        inputs["attention_output"] = random_input(config, config.num_hidden_layers, seed=4)
    return inputs


def check_changes(config, inputs, **settings):
    """All points changed at random, all of them looked at."""
    model = model_of(config)
    engine = engine_of(model, taps=["*"], **settings)
    asked = random_changes(engine, inputs)
    assert len(engine.config.surgery) == len(engine.config.taps) > 0
    got = run(engine, {**inputs, **asked})
    expected = reference(config, weights_of(model), inputs, asked)
    for name, value in got.items():
        error = np.abs(value - expected[name]).max() / np.abs(expected[name]).max()
        assert error <= LIMIT, (name, error)
    return engine


@pytest.mark.parametrize("name", TABLE)
def test_every_form_changes_as_in_float64(name):
    config = config_of(TABLE[name], layers=1)
    check_changes(config, inputs_of(config))


@pytest.mark.parametrize(
    "name", ["gptj_parallel", "neox_parallel_two_norms", "wide parallel", "llama_swiglu"]
)
def test_a_given_attention_can_be_changed_too(name):
    config = config_of(TABLE[name], layers=2, attention_input=True)
    engine = check_changes(config, inputs_of(config))
    assert "transformer.layers.1.attention.contribution" in engine.config.surgery


def test_an_encoder_changes_as_in_float64():
    config, inputs = small_config(), sentences()
    engine = check_changes(config, inputs)
    shape = engine.config.input_defaults["transformer.layers.1.attention.contribution.add"].shape
    assert shape == (("input_ids", 0), ("input_ids", 1), config.hidden_size)


@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.long) for name in TABLE]
)
def test_a_run_that_asks_for_nothing_has_the_bits_of_the_engine_without(name):
    """At the level basic; see `test_the_bits_are_the_same_at_all` for the other."""
    config = config_of(TABLE[name], layers=1)
    check_same_bits(model_of(config), inputs_of(config), deterministic=True)


@pytest.mark.long
@pytest.mark.parametrize("name", TABLE)
def test_the_bits_are_the_same_at_all(name):
    """What was seen, and no promise: that level's fusions may add in another order."""
    config = config_of(TABLE[name])
    check_same_bits(model_of(config), inputs_of(config))


def check_same_bits(model, inputs, **settings):
    without = run(tx.build(model, tx.BuildConfig(**settings)), inputs)
    engine = engine_of(model, **settings)
    assert engine.config.input_defaults
    changed = run(engine, inputs)
    assert changed.keys() == without.keys()
    for name, value in without.items():
        assert changed[name].tobytes() == value.tobytes(), name


@pytest.mark.parametrize("dtype", ["float16", pytest.param("bfloat16", marks=pytest.mark.long)])
def test_a_narrow_contribution_is_rounded_once_and_an_encoder_keeps_its_bits(dtype):
    config = config_of(TABLE["gpt2"], dtype, layers=1)
    model, inputs = model_of(config), inputs_of(config)
    engine = engine_of(model, ["*.contribution"], taps=["*.contribution"], deterministic=True)
    asked = random_changes(engine, inputs)
    before, after = (run(engine, {**inputs, **more})[POINT] for more in ({}, asked))
    wide = before.astype(np.float32) * asked[f"{POINT}.scale"] + asked[f"{POINT}.add"].astype(np.float32)
    assert after.dtype == DTYPES[dtype]
    assert after.tobytes() == wide.astype(DTYPES[dtype]).tobytes()
    check_same_bits(model_of(small_config(dtype)), sentences(), deterministic=True)


def test_zeros_keep_their_signs():
    """What is added by default must not make 0.0 of the -0.0 that comes in."""
    model = model_of(config_of(TABLE["gpt2"], layers=1))
    check_same_bits(model, {"hidden_states": -np.zeros((TOKENS, HIDDEN), np.float32)}, taps=["*.before"])


def test_a_contribution_times_zero_is_none():
    config = config_of(TABLE["gpt2"], layers=1)
    inputs = inputs_of(config)
    got = run(engine_of(model_of(config), [POINT]), {**inputs, f"{POINT}.scale": np.zeros(1, np.float32)})
    np.testing.assert_array_equal(got["hidden_states_out"], inputs["hidden_states"])


def test_a_dropped_contribution_leaves_no_nan():
    """A float16 feed-forward that overflows, dropped and replaced."""
    config = config_of(TABLE["gpt2"], "float16", layers=1)
    weights = weights_of(model := model_of(config))
    inputs = {"hidden_states": np.full((TOKENS, HIDDEN), 60000, np.float16)}
    inputs["hidden_states"][0] = np.inf
    engine = engine_of(model, [POINT], taps=[POINT])
    assert np.isnan(run(engine, inputs)[POINT][0]).all()
    add = np.full((TOKENS, HIDDEN), 0.5, np.float16)
    for more in ({}, {f"{POINT}.add": add}):
        asked = {f"{POINT}.scale": np.zeros(1, np.float32), **more}
        got = run(engine, {**inputs, **asked})
        expected = more.get(f"{POINT}.add", np.zeros_like(add))
        np.testing.assert_array_equal(got[POINT], expected)
        np.testing.assert_array_equal(got["hidden_states_out"], inputs["hidden_states"] + expected)
        told = evaluate(points_of(config, weights), {**inputs, **asked}).values
        np.testing.assert_array_equal(told[POINT], expected)


def test_without_surgery_the_network_and_the_engine_are_those_of_before(monkeypatch):
    model = model_of(config_of(TABLE["gpt2"]))
    plain_build = trace(model, tx.BuildConfig())
    engine = bytes(plain_build.builder.build_engine(plain_build.network, plain_build.builder_config))
    names = [layer.name for layer in plain_build.network.get_layers()]
    monkeypatch.setattr(
        either, "changed", lambda module, point, value, *_: value
    )  # as if there were nothing like it
    before = trace(model, tx.BuildConfig())
    assert names == [layer.name for layer in before.network.get_layers()]
    assert engine == bytes(before.builder.build_engine(before.network, before.builder_config))
    monkeypatch.undo()
    changed = trace(model, tx.BuildConfig(surgery=[POINT]))
    assert len(changed.network.get_layers()) > len(names)
    assert changes._CHANGER.get() is None
    assert tx.build(model).config.to_dict().keys() == {
        *("version", "build_id", "pretrained_config", "build_config", "taps", "fusion_level", "plugin_layers")
    }


@pytest.mark.parametrize(
    ("plugins", "point", "said"),
    [
        ({"ffn_plugin": "auto"}, "contribution", "ffn_plugin: .* surgery may change the contribution before"),
        (
            {"residual_norm_plugin": "auto"},
            "after",
            "residual_norm_plugin: .* surgery may change the stream before",
        ),
    ],
)
def test_a_plugin_leaves_what_is_changed_with_the_reason(plugins, point, said, caplog):
    config = config_of(plain(gated=True))
    model, inputs = model_of(config), inputs_of(config)
    with caplog.at_level(logging.WARNING):
        engine = engine_of(model, [f"*.0.mlp.{point}"], plugin_config=plugins)
    assert any(re.search(said, record.getMessage()) for record in caplog.records)
    asked = random_changes(engine, inputs)
    expected = reference(config, weights_of(model), inputs, asked)["hidden_states_out"]
    got = run(engine, {**inputs, **asked})["hidden_states_out"]
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()


def test_names_meanings_and_what_a_directory_keeps(tmp_path):
    model = model_of(config_of(TABLE["gpt2"]))
    engine = engine_of(model, ["*.1.mlp.contribution", "*.0.mlp.after"], taps=["*.1.mlp.contribution"])
    name = "transformer.layers.1.mlp.contribution"
    assert list(engine.config.surgery) == ["transformer.layers.0.mlp.after", name]
    assert [each.name for each in engine.inputs] == [
        *("hidden_states", "transformer.layers.0.mlp.after.add", f"{name}.scale", f"{name}.add")
    ]
    assert engine.config.taps[name].meaning.endswith("; as this run's surgery inputs have changed it")
    stored = engine.config.as_stored()
    assert stored["surgery"][name]["inputs"] == {
        f"{name}.scale": {"value": 1.0, "shape": [1]},
        f"{name}.add": {"value": 0.0, "shape": [["hidden_states", 0], HIDDEN]},
    }
    assert EngineConfig.from_dict(stored).as_stored() == stored
    engine.save(tmp_path / "engine")
    assert Engine.from_dir(tmp_path / "engine").config.as_stored() == json.loads(json.dumps(stored))
    x = random_input(config_of(TABLE["gpt2"]))
    with tx.Session.from_engine_dir(tmp_path / "engine") as session, session_of(engine) as other:
        assert session.input_defaults == other.input_defaults == engine.config.input_defaults
        whole, dropped = (
            session.run({"hidden_states": x, **more})["hidden_states_out"].copy()
            for more in ({}, {f"{name}.scale": np.zeros(1, np.float32)})
        )
    assert np.abs(whole - dropped).max() > 1e-2


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (["*.contributoin"], r"surgery: '\*\.contributoin' matches none of the 6 tensors that the SublayerStack lets a "
         r"run change\. Did you mean \*\.contribution\? `trtllm-ext build --dry_run --surgery '\*'` lists"),
        (["*", "zebra"], r"'zebra' matches none .* Known: \*\.after, \*\.before, \*\.contribution"),
        ([3], "surgery: 3 is no name"),
    ],
)  # fmt: skip
def test_patterns_that_are_refused(patterns, said):
    with pytest.raises(ConfigError, match=said):
        engine_of(model_of(config_of(TABLE["gpt2"])), patterns, dry_run=True)


@pytest.mark.parametrize("surgery", [[], {"a": 1}, {"a": {"inputs": {"a.add": {"value": 0}}}}])
def test_a_damaged_list(surgery):
    values = {
        **engine_of(model_of(config_of(TABLE["gpt2"])), dry_run=True).config.as_stored(),
        "surgery": surgery,
    }
    with pytest.raises(
        EngineError, match=r"the engine's config has .* expected|has a point, a meaning and inputs"
    ):
        EngineConfig.from_dict(values)
