"""Which layers become plugin layers: what is folded, what is taken over, what keeps to TensorRT's own layers."""

import logging

import numpy as np
import pytest
from stack_forms import config_of, plain, random_input, residual
from sublayer_formulas import set_random

import trtllm_ext as tx
from trtllm_ext.builder.trace import trace
from trtllm_ext.checkpoint import FORMS
from trtllm_ext.errors import ConfigError, GraphError
from trtllm_ext.graph.naming import layer_kind
from trtllm_ext.models import model_from_checkpoint, write_random_checkpoint

BUDGET_S = 3

ALL = {"ffn_plugin": "auto", "residual_norm_plugin": "auto", "gated_activation_plugin": "auto"}
FFN, NORM, ACTIVATION = ({name: "auto"} for name in ALL)


def model_of(form, path, dtype="float32", **more):
    write_random_checkpoint(path, config_of(form, dtype, **more), seed=1)
    return model_from_checkpoint(path)


def traced(model, plugins, **settings):
    return trace(model, tx.BuildConfig(max_num_tokens=32, plugin_config=plugins, **settings)).network


def plugin_layers(network):
    """(plugin, those of its fields that say something) of each layer, in order."""
    said = ("has_residual", "has_sum", "gated")
    records = [network.plugins[each.name] for each in network.get_layers() if each.name in network.plugins]
    return [
        (record.name, {name: record.fields[name] for name in said if name in record.fields})
        for record in records
    ]


def num_sums(network):
    return sum("ELEMENTWISE_SUM" in layer.name for layer in network.get_layers())


def feed_forward(gated, has_residual):
    return ("FeedForward", {"has_residual": has_residual, "gated": gated})


def norm(has_residual, has_sum):
    return ("ResidualNorm", {"has_residual": has_residual, "has_sum": has_sum})


def test_the_skip_connection_goes_into_the_feed_forward(tmp_path):
    network = traced(model_of(FORMS["llama_swiglu"], tmp_path), ALL)
    assert plugin_layers(network) == [norm(0, 0), feed_forward(1, 1)] * 2
    assert {layer_kind(layer) for layer in network.get_layers()} == {"CONSTANT", "PLUGIN_V3"}


def test_a_norm_takes_over_the_sum_that_it_reads(tmp_path):
    network = traced(model_of(FORMS["gpt2"], tmp_path), NORM)
    first, second = plugin_layers(network)
    # The second norm reads the first block's sum, which the second block's sum needs too.
    assert (first, second) == (norm(0, 0), norm(1, 1))
    names = [layer.name for layer in network.get_layers() if "SUM" in layer.name and "Residual" in layer.name]
    assert len(names) == 1  # the last block's sum, which no norm reads
    assert names[0].startswith("SublayerStack/transformer/layers/1/Residual/")


def test_a_norm_behind_the_sum_leaves_it_unwritten(tmp_path):
    network = traced(model_of(FORMS["relu_post_norm"], tmp_path), NORM)
    assert plugin_layers(network) == [norm(1, 0)] * 2


def test_activations_alone(tmp_path):
    network = traced(model_of(FORMS["llama_swiglu"], tmp_path), ACTIVATION)
    assert [name for name, _ in plugin_layers(network)] == ["GatedActivation"] * 2


def test_none_by_default_and_disabled(tmp_path):
    model = model_of(FORMS["llama_swiglu"], tmp_path)
    for plugins in ({}, dict.fromkeys(ALL), dict.fromkeys(ALL, "disable")):
        assert plugin_layers(traced(model, plugins)) == []


def test_a_type_is_for_layers_of_that_type(tmp_path):
    model = model_of(FORMS["llama_swiglu"], tmp_path, "float16")
    assert plugin_layers(traced(model, dict.fromkeys(ALL, "float32"))) == []
    assert plugin_layers(traced(model, dict.fromkeys(ALL, "float16"))) == [norm(0, 0), feed_forward(1, 1)] * 2


STANDS_BETWEEN = {
    "a scale": plain(residual=residual(scale=0.5)),
    "a gate": plain(residual=residual(gate="scalar")),
    "a norm of the branch": plain(residual=residual("branch")),
    "a norm behind": plain(residual=residual("sandwich", post_norm=residual().norm)),
    "a clamp": plain(residual=residual(clamp="float16")),
    "the sublayer at its side": FORMS["gptj_parallel"],
}


@pytest.mark.parametrize("name", STANDS_BETWEEN)
def test_what_stands_between_keeps_the_sum_apart(name, tmp_path):
    form = STANDS_BETWEEN[name]
    side = form.residual.parallel != "none"
    network = traced(model_of(form, tmp_path, attention_input=side), FFN)
    assert plugin_layers(network) == [feed_forward(0, 0)] * 2


def test_a_tapped_contribution_is_not_folded_and_all_taps_are_right(tmp_path):
    model = model_of(plain(gated=True), tmp_path)
    tap = {"taps": ["*.layers.1.mlp.contribution"]}
    assert plugin_layers(traced(model, FFN, **tap)) == [feed_forward(1, 1), feed_forward(1, 0)]
    assert plugin_layers(traced(model, FFN, taps=["*.after"])) == [feed_forward(1, 1)] * 2
    x = random_input(model.config)

    def outputs(plugins):
        config = tx.BuildConfig(max_num_tokens=32, plugin_config=plugins, taps=["*"])
        engine = tx.build(model_from_checkpoint(tmp_path), config).engine
        with tx.Session.from_serialized_engine(engine) as session:
            return session.run({"hidden_states": x})

    wanted = outputs({})
    assert len(wanted) == 1 + 2 * 3
    for plugins in (ALL, NORM):
        got = outputs(plugins)
        assert got.keys() == wanted.keys()
        for name, value in got.items():
            np.testing.assert_allclose(value, wanted[name], rtol=0, atol=1e-6 * abs(wanted[name]).max())


def test_a_contribution_that_somebody_marks_by_hand_is_computed_for_it(tmp_path):
    model = model_of(plain(), tmp_path)
    builder = tx.Builder()
    network = builder.create_network()
    network.plugin_config.ffn_plugin = "auto"
    with tx.net_guard(network):
        model(**model.prepare_inputs(max_num_tokens=32))
        noted = dict(model.named_network_outputs())
        noted["transformer.layers.0.mlp.contribution"].mark_output("contribution")
    engine = builder.build_engine(network, builder.create_builder_config(precision="float32"))
    x = random_input(model.config)
    with tx.Session.from_serialized_engine(engine) as session:
        got = session.run({"hidden_states": x})["contribution"]
    config = tx.BuildConfig(max_num_tokens=32, taps=["*.layers.0.mlp.contribution"])
    with tx.Session.from_serialized_engine(
        tx.build(model_from_checkpoint(tmp_path), config).engine
    ) as session:
        wanted = session.run({"hidden_states": x})["transformer.layers.0.mlp.contribution"]
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6 * abs(wanted).max())


REASONS = {
    "inner_norm": "the feed-forward has a norm inside",
    "mixture_renormalized": "the sublayer is a MixtureOfExperts",
}


@pytest.mark.parametrize("form", REASONS)
def test_why_a_plugin_is_not_taken_is_told_once(form, tmp_path, caplog):
    # Attention is no feed-forward, and nothing is told of it.
    model = model_of(FORMS[form], tmp_path, attention_input=True)
    with caplog.at_level(logging.WARNING, "trtllm_ext"):  # what a build shows
        network = traced(model, FFN)
    assert plugin_layers(network) == []
    told = f"ffn_plugin: TensorRT's own layers where {REASONS[form]}"
    assert caplog.messages == [told]


@pytest.mark.parametrize("asked", ["float16", "auto"])
def test_a_plugin_that_no_layer_took_is_told_of(asked, tmp_path, caplog):
    model = model_of(FORMS["llama_swiglu"], tmp_path)
    with caplog.at_level(logging.WARNING, "trtllm_ext"):
        network = traced(model, dict.fromkeys(ALL, asked))
    assert len(plugin_layers(network)) == (4 if asked == "auto" else 0)
    told = [f"{name}=float16: the network has no layer of type float16 for this plugin" for name in ALL]
    assert caplog.messages == ([] if asked == "auto" else told)


def test_a_network_of_ones_own_is_told_of_when_it_is_built(caplog):
    builder = tx.Builder()
    network = builder.create_network()
    network.plugin_config.ffn_plugin = "auto"
    with tx.net_guard(network):
        (tx.Tensor(name="x", dtype="float32", shape=[4, 8]) * 2.0).mark_output("y")
    for _ in range(2):  # told once
        builder.build_engine(network, builder.create_builder_config(precision="float32"))
    assert caplog.messages == ["ffn_plugin=auto: the network has no layer for this plugin"]


def test_activations_that_are_inside_of_whole_feed_forwards_are_told_of(tmp_path, caplog):
    model = model_of(FORMS["llama_swiglu"], tmp_path)
    with caplog.at_level(logging.INFO, "trtllm_ext"):
        traced(model, ALL)
    told = [each for each in caplog.messages if "plugin" in each]
    assert told == [
        "gated_activation_plugin: all activations that it asks for are inside of FeedForward plugins"
    ]


class Doubled(tx.layers.FeedForward):
    """A sublayer of one's own that no record describes."""

    def inner(self, hidden_states):
        return super().inner(hidden_states) * 2.0


class Halved(tx.layers.Residual):
    """A block that does something of its own with what it adds."""

    def _contribution(self, *args, **kwargs):
        return super()._contribution(*args, **kwargs) * 0.5


def patched(part, method):
    """A block with a method of a part of its feed-forward replaced, as adapters do."""
    block = tx.layers.Residual(tx.layers.FeedForward(8, 16))
    part = getattr(block.sublayer, part) if part else block.sublayer
    own = getattr(part, method)
    setattr(part, method, lambda *args, **kwargs: own(*args, **kwargs) * 2.0)
    return block


OF_ONES_OWN = {
    "a sublayer": (lambda: tx.layers.Residual(Doubled(8, 16)), []),
    "a block": (lambda: Halved(tx.layers.FeedForward(8, 16)), [feed_forward(0, 0)]),
    "a matrix's forward": (lambda: patched("fc", "forward"), []),
    "inner": (lambda: patched(None, "inner"), []),
    "forward": (lambda: patched(None, "forward"), []),
}


@pytest.mark.parametrize("name", OF_ONES_OWN)
def test_what_is_ones_own_keeps_its_numbers(name):
    make, layers = OF_ONES_OWN[name]
    block = make()
    set_random(block, "float32")
    x_8 = np.linspace(-1, 1, 32, dtype=np.float32).reshape(4, 8)

    def output(asked):
        builder = tx.Builder()
        network = builder.create_network()
        network.plugin_config.ffn_plugin = asked
        with tx.net_guard(network):
            x = tx.Tensor(name="x", dtype="float32", shape=[4, 8])
            block(x).mark_output("y")
        assert plugin_layers(network) == (layers if asked else [])
        engine = builder.build_engine(network, builder.create_builder_config(precision="float32"))
        with tx.Session.from_serialized_engine(engine) as session:
            return session.run({"x": x_8})["y"]

    np.testing.assert_array_equal(output("auto"), output(None))


@pytest.mark.parametrize("norm", [tx.layers.RmsNorm, tx.layers.LayerNorm])
def test_a_norm_of_another_width_is_refused_as_without_plugins(norm):
    network = tx.Builder().create_network()
    network.plugin_config.residual_norm_plugin = "auto"
    with tx.net_guard(network):
        x = tx.Tensor(name="x", dtype="float32", shape=[4, 8])
        with pytest.raises(GraphError, match=r"normalized_shape \(6,\) is not the end"):
            norm(6, elementwise_affine=False)(x)


@pytest.mark.parametrize(
    ("plugins", "text"),
    [
        ({"ffn_plugin": "int8"}, r"plugin_config.ffn_plugin = 'int8' is not known"),
        (
            {"ffn_plugin": "FLOAT32"},
            r"Did you mean float32.*'disable' \(None in Python, null in JSON\) is for",
        ),
        ({"ffn_plugin": True}, r"plugin_config.ffn_plugin = True is not known"),
        ({"ffn_plugins": "auto"}, r"unknown plugin_config key 'ffn_plugins'. Did you mean ffn_plugin"),
    ],
)
def test_unknown_settings_are_refused_with_what_is_right(plugins, text):
    with pytest.raises(ConfigError, match=text):
        tx.BuildConfig(plugin_config=plugins)
