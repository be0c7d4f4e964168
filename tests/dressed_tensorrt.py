"""The embedded engine dressed as a release of TensorRT: it shows what that release has, and computes as ever.

    with dressed("8.6.1") as dress:      # or "10.14.1.48.post1", "11.4.0.106": tensorrt_surface.releases()
        ...                              # backend.tensorrt() is the dressed module
    dress.uses                           # what the package called, read and set, with how often

In the block, `backend.tensorrt()` is a module with that release's `__version__`, and `backend.choice()` says the
embedded engine; with `dressed(release, "tensorrt")` it says NVIDIA's, for what the package does for that one alone.
The package, wherever it is, sees of the module, and of every object that comes from the embedded engine, only the
names, members and enumerators that the release's own bindings have, and may set only what may be set there: anything
else is an AttributeError, so `hasattr` answers as there. A call whose arguments no overload of the bindings takes is a
TypeError. So the package takes the way that it takes on that release, and what it builds can be run.

Code of tests is not looked at, but for what it takes from the module itself. What the embedded engine calls is not
either; but the lowering is, which reads a network through the API.

`recorded()` is the same without a dress: everything of the embedded engine is shown, and the uses are kept.

A dress changes names only, but for what the package could not be seen to get right otherwise: in 8.6, where lengths
are INT32, a shape layer is followed by a cast to INT32, weights that nobody named have names in a refit, and plugins,
which are of the second version, are the embedded engine's of the third, whose outputs tell float32; in 11 all networks
are strongly typed, whatever the flag. What the release has and the embedded engine has not is there for `hasattr`; to
call it is a LookupError.
"""

import importlib
import sys
import weakref
from contextlib import ExitStack, contextmanager
from unittest import mock

from dressed_views import TYPED, Dress, Module, classes, hook, public
from tensorrt_surface import Surface

import trtllm_ext.embedded as embedded
from trtllm_ext import backend
from trtllm_ext.runtime import session
from trtllm_ext.runtime.memory import HostMemory

# Not `from trtllm_ext.lowering import lower`: the package has the function under that name.
lower = importlib.import_module("trtllm_ext.lowering.lower")


@contextmanager
def dressed(release, engine="embedded"):
    """The block runs with the embedded engine dressed as `release`; gives the Dress.

    engine: which engine it is to the package. As "tensorrt" it is NVIDIA's, on a device of compute capability 9.0 whose
    buffers are on the host.
    """
    with ExitStack() as stack:
        dress = Dress(Surface(release), _OTHERWISE[release.split(".")[0]])
        if engine == "tensorrt":
            choice = backend.Choice(engine, "trtllm_ext", (f"engine: tensorrt {release}, a dress",))
            stack.enter_context(mock.patch.object(backend, "_choose", lambda request: choice))
            stack.enter_context(mock.patch.object(backend, "cuda_driver", _Driver))
            stack.enter_context(mock.patch.object(session, "DeviceMemory", HostMemory))
        yield stack.enter_context(_worn(dress, engine))


@contextmanager
def recorded():
    """The block runs with the embedded engine as it is; gives the Dress, which keeps the uses."""
    with _worn(Dress(), "embedded") as dress:
        yield dress


@contextmanager
def _worn(dress, engine):
    name = "tensorrt" if engine == "tensorrt" else "tensorrt_in_a_dress"
    module, before = Module(dress), sys.modules.get(name)
    roots = [each for each in classes().values() if not any(base in public() for base in each.__mro__[1:])]
    environment = {backend.ENVIRONMENT_VARIABLE: engine}
    with (
        mock.patch.dict("os.environ", environment),
        mock.patch.object(backend, "EMBEDDED_MODULE", name),
        mock.patch.object(lower, "lower", _lowering_from(module)),
    ):
        sys.modules[name] = module  # not by mock.patch.dict, which would forget what is imported in the block
        undo = [hook(each, dress) for each in roots]
        try:
            yield dress
        finally:
            del sys.modules[name]
            if before is not None:
                sys.modules[name] = before
            for each in undo:
                each()


class _Driver:
    """Answers as NVIDIA's driver does of one device of compute capability 9.0."""

    def cuInit(self, flags):  # noqa: N802
        return 0

    def cuCtxGetDevice(self, handle):  # noqa: N802
        return 0

    def cuDeviceGetCount(self, count):  # noqa: N802
        count._obj.value = 1
        return 0

    def cuDeviceGetAttribute(self, value, which, handle):  # noqa: N802
        value._obj.value = {75: 9, 76: 0}[which]
        return 0


def _lowering_from(module):
    """The lowering, which reads the network as one of the module that it is given: have it be the dressed one."""
    plain = lower.lower
    return lambda network, _, *rest, **more: plain(network, module, *rest, **more)


def _shape_of_8(network):
    def add_shape(input):
        layer = network.add_shape(input)
        return layer if layer is None else network.add_cast(layer.get_output(0), embedded.DataType.INT32)

    return add_shape


def _weights_of_8(refitter):
    def get_all_weights():
        named = {place for places in refitter._by_name.values() for place in places}
        own = [
            f"{layer} {role.name}"
            for (layer, role), places in refitter._by_role.items()
            if named.isdisjoint(places)
        ]
        return [name for name in refitter.get_all_weights() if name] + own

    return get_all_weights


class IPluginV2:
    """A plugin of the version that 8.6 has, over one of the embedded engine's."""

    def __init__(self, plugin):
        self.plugin = plugin


class _CreatorOfV2:
    def __init__(self, creator):
        self._creator = creator

    def create_plugin(self, name, field_collection):
        return IPluginV2(self._creator.create_plugin(name, field_collection, None))


def _plugin_creator_of_8(registry):
    def get_plugin_creator(type, version, plugin_namespace=""):
        found = registry.get_creator(type, version, plugin_namespace)
        return None if found is None else _CreatorOfV2(found)

    return get_plugin_creator


def _plugin_v2_of_8(network):
    def add_plugin_v2(inputs, plugin):
        layer = network.add_plugin_v3(inputs, [], plugin.plugin)
        _OF_PLUGINS.update(layer.get_output(index) for index in range(layer.num_outputs))
        return layer

    return add_plugin_v2


# Outputs of plugin layers: 8.6 asks for their types when it builds, and until then tells float32, also where the
# layer's output type is set, unless the type of the tensor is.
_OF_PLUGINS: "weakref.WeakSet[embedded.ITensor]" = weakref.WeakSet()


def _dtype_of_8(tensor):
    return embedded.DataType.FLOAT if tensor in _OF_PLUGINS and tensor not in TYPED else tensor.dtype


def _normalization_v2(network):
    def add_normalization_v2(input, scale, bias, axesMask):
        return network.add_normalization(input, scale, bias, axesMask)

    return add_normalization_v2


def _network_of_11(builder):
    def create_network(flags=0):
        strongly_typed = 1 << int(embedded.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = builder.create_network(flags | strongly_typed)
        network._flags = int(flags)
        return network

    return create_network


# By major version, class and member: what a release does otherwise than the embedded engine, or has beyond it.
_OTHERWISE = {
    "8": {
        ("INetworkDefinition", "add_shape"): _shape_of_8,
        ("Refitter", "get_all_weights"): _weights_of_8,
        ("IPluginRegistry", "get_plugin_creator"): _plugin_creator_of_8,
        ("INetworkDefinition", "add_plugin_v2"): _plugin_v2_of_8,
        ("ITensor", "dtype"): _dtype_of_8,
    },
    "10": {},
    "11": {
        ("Builder", "create_network"): _network_of_11,
        ("INetworkDefinition", "add_normalization_v2"): _normalization_v2,
    },
}
