"""Plugin layers on TensorRT 8.6, 10.14 and 11.4: every call is in their bindings, and the numbers are those undressed.

In the dress of 8.6 plugins are of the second version: a fake over the embedded engine's, which is of the third.
"""

import numpy as np
import pytest
from dressed_tensorrt import dressed, recorded
from stack_forms import TABLE, config_of, random_input
from tensorrt_surface import releases

import trtllm_ext as tx
from trtllm_ext import backend, oracle
from trtllm_ext.builder.trace import trace
from trtllm_ext.graph.known import known_of
from trtllm_ext.graph.plugin_config import OWN_PLUGINS
from trtllm_ext.models import model_from_checkpoint, write_random_checkpoint
from trtllm_ext.plugin import functional as plugins

BUDGET_S = 6

pytestmark = pytest.mark.usefixtures("one_thread")

# Of whole feed-forwards, of sums that norms take over, of norms alone, of activations of experts.
CASES = {
    "llama_swiglu": "float16",
    "gemma2_sandwich": "float16",
    "bert": "float32",
    "mixture_renormalized": "float32",
}
TOLERANCES = {"float16": 2e-3, "float32": 2e-6}  # of the largest value
V2 = {
    "IPluginRegistry.get_plugin_creator",
    "INetworkDefinition.add_plugin_v2",
}
V3 = {
    "IPluginRegistry.get_creator",
    "IPluginCreatorV3One.create_plugin",
    "INetworkDefinition.add_plugin_v3",
}


def output_of(path, config):
    """What an engine with plugins gives, through the package's own builder and session."""
    limits = tx.BuildConfig(max_num_tokens=32, plugin_config=dict.fromkeys(OWN_PLUGINS, "auto"))
    traced = trace(model_from_checkpoint(path), limits)
    assert traced.network.plugins
    engine = traced.builder.build_engine(traced.network, traced.builder_config)
    inputs = {"hidden_states": random_input(config)}
    with tx.Session.from_serialized_engine(engine) as session:
        got = session.run(inputs)["hidden_states_out"]
    known = known_of(traced.network)
    network, trt = traced.network.trt_network, backend.tensorrt()
    exact = oracle.evaluate(network, trt, inputs, plugins=known.plugins, weights=known.weights)
    allowed = TOLERANCES[config.dtype] * abs(exact["hidden_states_out"]).max()
    np.testing.assert_allclose(got, exact["hidden_states_out"], rtol=0, atol=allowed)
    return got


@pytest.mark.parametrize("name", CASES)
def test_networks_with_plugins(name, tmp_path):
    config = config_of(TABLE[name], CASES[name])
    write_random_checkpoint(tmp_path, config, seed=1)
    with recorded():
        expected = output_of(tmp_path, config).astype(np.float64)
    for release in releases():
        with dressed(release) as dress:
            found = output_of(tmp_path, config)
        tolerance = TOLERANCES[CASES[name]] * abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance, err_msg=release)
        used = {f"{use.owner}.{use.name}" for use in dress.uses if use.what == "call"}
        wanted, not_there = (V2, V3) if release.startswith("8.") else (V3, V2)
        assert wanted <= used and not used & not_there, release
        assert "PluginField.__init__" in used


def test_what_a_plugin_gives_is_known_on_8_6_whatever_becomes_of_its_output():
    """Its output tells float32 there; renamed, marked and read by others it is float16 all the same."""
    x = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float16)
    with dressed("8.6.1") as dress:
        builder = tx.Builder()
        config = builder.create_builder_config(precision="float16")
        network = builder.create_network()
        with tx.net_guard(network):
            given = tx.Tensor(name="x", dtype="float16", shape=[3, 8])
            first = plugins.gated_activation(given, activation="relu")
            assert str(first.dtype).endswith("HALF") and type_told(first).endswith("FLOAT")
            first.name = "renamed"
            assert str(first.dtype).endswith("HALF")
            second = plugins.gated_activation(first + given, activation="relu")
            first.mark_output("half")
            second.mark_output("wide", dtype="float32")
            assert type_told(first).endswith("HALF")
            (second + first).mark_output("sum")
        known = known_of(network)
        exact = oracle.evaluate(
            network.trt_network, backend.tensorrt(), {"x": x}, plugins=known.plugins, weights=known.weights
        )
        engine = builder.build_engine(network, config)
        with tx.Session.from_serialized_engine(engine) as session:
            got = session.run({"x": x})
    assert any((use.what, use.owner, use.name) == ("set", "ITensor", "dtype") for use in dress.uses)
    assert {name: each.dtype.name for name, each in got.items()} == {
        "half": "float16",
        "wide": "float32",
        "sum": "float16",
    }
    for name, each in got.items():
        np.testing.assert_allclose(each, exact[name], rtol=2e-3, atol=1e-6)


def type_told(tensor):
    """What the library tells, asked as the package asks."""
    return str(eval("t.dtype", {"__name__": "trtllm_ext.of_a_test", "t": tensor.trt_tensor}))
