"""The record of a plugin layer: its fields are kept, and its meaning serves the oracle and the lowering."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from lowered_models import inline
from sample_plugins import Extremes, NumpyPlugin

import trtllm_ext as tx
import trtllm_ext.embedded as trt
from trtllm_ext.builder import EngineConfig, export_network
from trtllm_ext.errors import BuildError, GraphError
from trtllm_ext.graph import functional
from trtllm_ext.graph.known import known_of
from trtllm_ext.graph.plugin_record import PluginRecord
from trtllm_ext.lowering import Expansion, lower
from trtllm_ext.oracle import OracleError, evaluate, opaque_layers, trace

BUDGET_S = 4
X = np.random.default_rng(3).normal(size=(5, 4)).astype(np.float32)


class Swish(NumpyPlugin):
    def compute(self, inputs, outputs):
        outputs[0][:] = inputs[0] / (1 + np.exp(-2 * inputs[0]))


def swish(x):
    """What the plugin computes, in plain layers: x * sigmoid(2 x)."""
    return x * functional.sigmoid(x * 2.0)


def network_with(record, plugin=None):
    """out = plugin(relu(x)) + 1, the plugin layer recorded."""
    network = tx.Builder().create_network()
    with tx.net_guard(network):
        x = tx.Tensor(name="x", dtype="float32", shape=[-1, 4])
        layer = network.trt_network.add_plugin_v3([functional.relu(x).trt_tensor], [], plugin or Swish())
        if record is not None:
            network.record_plugin(layer, record)
        y = functional._create_tensor(layer.get_output(0), layer)
        (y + 1.0).mark_output("y")
    return network, layer


RECORD = PluginRecord(
    name="Swish", version="2", namespace="own", fields={"beta": np.float32(2)}, expansion=swish
)


def want():
    z = np.maximum(X.astype(np.float64), 0)
    return z / (1 + np.exp(-2 * z)) + 1


def test_fields_are_kept_under_the_name_of_the_layer():
    network, layer = network_with(RECORD)
    assert layer.name.endswith("PLUGIN_V3_0")
    stored = {"name": "Swish", "version": "2", "namespace": "own", "fields": {"beta": 2.0}}
    assert {name: record.to_dict() for name, record in network.plugins.items()} == {layer.name: stored}
    with pytest.raises(GraphError, match="cannot be recorded as <object"):
        PluginRecord(name="Swish", fields={"beta": object()})
    with pytest.raises(GraphError, match="needs the plugin's name"):
        PluginRecord(name="")


def test_add_plugin_info_records_what_the_creator_was_given():
    class Creator:
        plugin_version, plugin_namespace = "3", "theirs"

    fields = trt.PluginFieldCollection(
        [
            trt.PluginField("sizes", np.array([1, 2], np.int32), trt.PluginFieldType.INT32),
            trt.PluginField("name", b"gelu\0", trt.PluginFieldType.CHAR),
        ]
    )
    network, layer = network_with(None)
    with tx.net_guard(network):
        functional._add_plugin_info(layer, Creator(), "Swish", fields)
    [record] = network.plugins.values()
    assert (record.name, record.version, record.namespace) == ("Swish", "3", "theirs")
    assert record.fields == {"sizes": [1, 2], "name": "gelu"}


@pytest.mark.parametrize(
    "record",
    [RECORD, PluginRecord(name="Swish", function=lambda x: x / (1 + np.exp(-2 * x)))],
    ids=["expansion", "function"],
)
def test_the_oracle_reads_the_record(record):
    network, _ = network_with(record)
    plugins = known_of(network).plugins
    assert opaque_layers(network.trt_network, trt, plugins) == ()
    np.testing.assert_allclose(
        evaluate(network.trt_network, trt, {"x": X}, plugins=plugins)["y"], want(), rtol=1e-12
    )


def test_without_a_record_the_layer_is_named_and_fed_from_outside():
    network, layer = network_with(None)
    [opaque] = opaque_layers(network.trt_network, trt, known_of(network).plugins)
    assert (opaque.layer, opaque.plugin) == (layer.name, "Swish")
    with pytest.raises(
        OracleError, match=rf"Layer '{layer.name}' \(PLUGIN_V3\): what plugin 'Swish' computes"
    ):
        evaluate(network.trt_network, trt, {"x": X})
    made = np.full((5, 4), 3.0, np.float32)
    steps = {s.tensor: s for s in trace(network.trt_network, trt, {"x": X}, given={opaque.outputs[0]: made})}
    assert steps[opaque.outputs[0]].is_given and steps[opaque.outputs[0]].layer == layer.name
    np.testing.assert_array_equal(steps["y"].value, made + 1)


def test_the_lowering_writes_the_expansion_out():
    network, layer = network_with(RECORD)
    inner = known_of(network).expansions[layer.name]
    expansion = Expansion(inner.trt_network, inner.host_weights)
    [segment] = lower(network.trt_network, trt, expansions={layer.name: expansion}).steps
    assert len(lower(network.trt_network, trt).steps) == 3
    model = inline(segment)
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": X})[0], want(), rtol=1e-5)


def test_a_recorded_plugin_is_exported_and_another_refused_by_the_name_of_its_layer(tmp_path):
    network, _ = network_with(RECORD)
    exported = export_network(network, tmp_path / "m.onnx")
    session = ort.InferenceSession(str(exported.path), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": X})[0], want(), rtol=1e-5)
    network, layer = network_with(PluginRecord(name="Swish", function=lambda x: x))
    with pytest.raises(
        BuildError, match=rf"layer '{layer.name}' is a plugin, whose meaning nobody has recorded"
    ):
        export_network(network, tmp_path / "other.onnx")


def test_an_expansion_is_exported_in_standard_operators_too(tmp_path):
    def product(x):  # ONNX Runtime has an operator of its own for it
        both = functional.matmul(functional.unsqueeze(x, 0), functional.unsqueeze(x, 0), transb=True)
        return functional.squeeze(functional.matmul(both, functional.unsqueeze(x, 0)), 0)

    network, _ = network_with(PluginRecord(name="Swish", expansion=product))
    exported = export_network(network, tmp_path / "m.onnx")
    assert {node.domain for node in onnx.load(exported.path).graph.node} == {""}


def test_an_engine_tells_what_was_recorded():
    config = EngineConfig({}, tx.BuildConfig(), plugin_layers={"a": RECORD.to_dict()})
    assert EngineConfig.from_dict(config.as_stored()).plugin_layers == {"a": RECORD.to_dict()}


def test_an_expansion_must_give_what_the_layer_gives():
    network, layer = network_with(
        PluginRecord(name="Swish", expansion=lambda x: functional.cast(x, "float16"))
    )
    with pytest.raises(
        GraphError, match=rf"{layer.name}: the expansion of the plugin 'Swish' gives .*HALF of rank 2"
    ):
        known_of(network)
    network, layer = network_with(PluginRecord(name="Extremes", expansion=swish), Extremes())
    with pytest.raises(GraphError, match="the expansion of the plugin 'Extremes' gives"):
        known_of(network)
