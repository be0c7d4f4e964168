"""Plugins in the envelope: from the network's layers, and looked for before the engine is opened."""

from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
from sample_plugins import Creator, GeluBias, NumpyPlugin

import trtllm_ext as tx
import trtllm_ext.embedded as trt
from trtllm_ext import backend
from trtllm_ext.builder.network_plugins import plugins_of, spare_handles
from trtllm_ext.errors import EngineError
from trtllm_ext.graph import functional
from trtllm_ext.runtime import plugin_libraries
from trtllm_ext.runtime.envelope import Envelope, PluginSummary

BUDGET_S = 3
HIDDEN = 4

pytestmark = pytest.mark.usefixtures("one_thread")


class Twice(NumpyPlugin):
    def __init__(self, fc=None, phase=None):
        super().__init__(fc, phase)
        self.plugin_version, self.plugin_namespace = "3", "tests.envelope"

    def compute(self, inputs, outputs):
        outputs[0][...] = 2 * inputs[0]


def plugged(plugin, x):
    layer = tx.graph.default_net().trt_network.add_plugin_v3([x.trt_tensor], [], plugin)
    return functional._create_tensor(layer.get_output(0), layer)


class Model(tx.graph.Module):
    """y = 2 (2 relu(x)), each doubling by a layer of the same plugin."""

    config = SimpleNamespace(dtype="float32", to_dict=lambda: {"architecture": "Model", "contract": {}})

    def prepare_inputs(self, max_num_tokens):
        shape = OrderedDict(num_tokens=[[1, 2, max_num_tokens]], hidden=[HIDDEN])
        return {"x": tx.Tensor(name="x", dtype="float32", shape=[-1, HIDDEN], dim_range=shape)}

    def forward(self, x):
        plugged(Twice(), plugged(Twice(), functional.relu(x))).mark_output("y", "float32")


@pytest.fixture(scope="module")
def engine_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("plugged") / "engine"
    tx.build(Model(), tx.BuildConfig(max_num_tokens=8, opt_num_tokens=2)).save(path)
    return path


@pytest.fixture
def registered():
    """The creator in the process's registry, for one test."""
    registry, creator = trt.get_plugin_registry(), Creator(Twice, "3", "tests.envelope")
    assert registry.register_creator(creator, "tests.envelope")
    yield creator
    registry.deregister_creator(creator)


def test_each_plugin_is_named_once(engine_dir):
    assert Envelope.read(engine_dir / "rank0.envelope.json").plugins == (
        PluginSummary(name="Twice", version="3", namespace="tests.envelope"),
    )
    assert tx.Engine.from_dir(engine_dir).plugins[0].name == "Twice"


def test_a_library_that_was_noted_is_told(tmp_path, monkeypatch, registered):
    monkeypatch.setattr(plugin_libraries, "_noted", {})
    library = tmp_path / "libtwice.so"
    library.write_bytes(b"code")
    noted = plugin_libraries.note_library(library, [registered])
    network = tx.Builder().create_network()
    with tx.net_guard(network):
        x = tx.Tensor(name="x", dtype="float32", shape=[-1, HIDDEN])
        plugged(Twice(), x)
        plugged(GeluBias(), x)
    of_library, of_python = plugins_of(network.trt_network)
    assert (of_library.library, of_library.library_sha256) == ("libtwice.so", noted.sha256)
    assert (of_python.name, of_python.library, of_python.library_sha256) == ("GeluBias", "", "")


def test_without_its_creator_the_engine_is_not_opened(engine_dir, tmp_path, monkeypatch):
    """The envelope says so, and not the file, which is not mapped at all."""
    opened = []
    monkeypatch.setattr(tx.runtime.EngineDir, "map_engine", opened.append)
    with pytest.raises(EngineError) as caught:
        tx.Session.from_engine_dir(engine_dir)
    told = str(caught.value)
    assert (
        "needs the plugin 'Twice' version '3' in namespace 'tests.envelope', which is not registered" in told
    )
    assert f"trtllm-ext build --from-engine {engine_dir}" in told
    assert not opened


def test_with_its_creator_it_runs(engine_dir, registered):
    x = np.random.default_rng(0).normal(size=(3, HIDDEN)).astype(np.float32)
    with tx.Session.from_engine_dir(engine_dir) as session:
        np.testing.assert_array_equal(session.run({"x": x})["y"], 4 * np.maximum(x, 0))


class ILayer:
    """A layer as TensorRT 8's networks give it out: plain, until it is made one of its own class."""

    def __init__(self, kind, plugin=None):
        self.kind, self.inside = kind, plugin

    @property
    def type(self):
        return SimpleNamespace(name=self.kind)


class IPluginV2Layer(ILayer):
    @property
    def plugin(self):
        return self.inside


def network_of_version_2(*namespaces):
    """A layer that is no plugin, and two of a plugin in each namespace."""
    layers = [ILayer("ACTIVATION")]
    for namespace in namespaces:
        plugin = SimpleNamespace(plugin_type="Fast", plugin_version="1", plugin_namespace=namespace)
        layers += [ILayer("PLUGIN_V2", plugin), ILayer("PLUGIN_V2", plugin)]
    return SimpleNamespace(num_layers=len(layers), get_layer=layers.__getitem__)


@pytest.fixture
def tensorrt_8(monkeypatch):
    sources = SimpleNamespace(CUBLAS=0, CUBLAS_LT=1, CUDNN=2)
    library = SimpleNamespace(ILayer=ILayer, IPluginV2Layer=IPluginV2Layer, TacticSource=sources)
    monkeypatch.setattr(backend, "tensorrt", lambda: library)
    monkeypatch.setattr(backend, "choice", lambda: SimpleNamespace(engine="tensorrt"))
    return library


def test_plugins_of_the_second_version(tensorrt_8):
    """The plugin says its type itself."""
    assert plugins_of(network_of_version_2("")) == (PluginSummary(name="Fast", version="1"),)


@pytest.mark.parametrize(
    "namespaces, sources",
    [((), 0b11111), (("trtllm_ext",), 0b11000), (("trtllm_ext", ""), 0b11111), (("",), 0b11111)],
)
def test_cublas_and_cudnn_are_not_loaded_for_plugins_that_take_no_handle(tensorrt_8, namespaces, sources):
    """TensorRT 8 gives all plugins both libraries' handles, unless their tactics are off."""
    config = SimpleNamespace(sources=0b11111)
    config.get_tactic_sources = lambda: config.sources
    config.set_tactic_sources = lambda wanted: setattr(config, "sources", wanted)
    spare_handles(network_of_version_2(*namespaces), config)
    assert config.sources == sources


def test_later_versions_give_no_handles(tensorrt_8):
    tensorrt_8.IPluginV3 = object
    spare_handles(network_of_version_2("trtllm_ext"), config=None)
