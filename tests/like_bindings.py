"""The embedded engine's networks as NVIDIA's Python bindings show one, for what reads networks through the API.

    trt, network = as_bindings(embedded_network)

What differs from the embedded objects, as pybind11 and the sources of the bindings have it: a layer of a network is an
ILayer, whose attributes show after its `__class__` is changed; layers, tensors, loops and conditionals are wrapped
anew each time they are asked for unless a wrapper of that very class lives; equality and hash are those of the
wrapper; weights come as arrays of numpy's own types, and otherwise as an object without elements or address.
"""

import inspect
from types import SimpleNamespace
from weakref import WeakValueDictionary

import numpy as np

import trtllm_ext.embedded as embedded

_ALIVE = WeakValueDictionary()
_ARRAYS = ("f4", "f2", "i1", "i4", "i8", "b1", "u1")


class _Wrapper:
    __slots__ = ("__weakref__", "_under")

    def __repr__(self):
        return f"<{type(self).__name__} of {self._under!r}>"


def _wrapped(under, kind):
    if under is None:
        return None
    found = _ALIVE.get((id(under), kind))
    # pybind11 knows a wrapper by the class that it has now.
    if found is not None and type(found) is kind:
        return found
    wrapper = object.__new__(kind)
    wrapper._under = under
    _ALIVE[id(under), kind] = wrapper
    return wrapper


class Weights:
    """Of a type that numpy lacks: nothing leads to the elements."""

    def __init__(self, under):
        self.dtype, self.size, self.nbytes = under.dtype, under.size, under.nbytes

    def numpy(self):
        return self

    def __len__(self):
        return self.size


def _shown(value):
    if isinstance(value, embedded.ITensor):
        return _wrapped(value, ITensor)
    if isinstance(value, embedded.ILoop):
        return _wrapped(value, ILoop)
    if isinstance(value, embedded.IIfConditional):
        return _wrapped(value, IIfConditional)
    if isinstance(value, embedded.Weights) or (
        isinstance(value, np.ndarray) and value.dtype.str[1:] not in _ARRAYS
    ):
        if isinstance(value, np.ndarray):
            value = SimpleNamespace(dtype=_datatype(value), size=value.size, nbytes=value.nbytes)
        return Weights(value)
    return value


def _datatype(array):
    return {"bfloat16": embedded.bfloat16, "float8_e4m3fn": embedded.fp8}[array.dtype.name]


def _property(kind, name):
    # By the class that has the attribute: a layer's own object hides `type` behind that of its kind.
    return property(lambda wrapper: _shown(getattr(_seen_as(wrapper._under, kind), name)))


def _method(kind, name):
    return lambda wrapper, *args: _shown(getattr(_seen_as(wrapper._under, kind), name)(*args))


def _seen_as(under, kind):
    return kind._view(under._node) if issubclass(kind, embedded.ILayer) else under


def _class(kind, base, names=None):
    """A wrapper class with the public members of an embedded class."""
    shown = {"__slots__": ()}
    for name, member in vars(kind).items():
        if name.startswith("_") or (names is not None and name not in names):
            continue
        shown[name] = _method(kind, name) if inspect.isfunction(member) else _property(kind, name)
    return type(kind.__name__, (base,), shown)


ITensor = _class(embedded.ITensor, _Wrapper)
ILayer = _class(embedded.ILayer, _Wrapper)
ILoop = _class(embedded.ILoop, _Wrapper, ("name",))
IIfConditional = _class(embedded.IIfConditional, _Wrapper, ("name",))


class _Network(_Wrapper):
    """An INetworkDefinition, as far as it is read."""

    __slots__ = ()
    name = property(lambda self: self._under.name)
    num_layers = property(lambda self: self._under.num_layers)
    num_inputs = property(lambda self: self._under.num_inputs)
    num_outputs = property(lambda self: self._under.num_outputs)

    def get_flag(self, flag):
        return self._under.get_flag(flag)

    def get_layer(self, index):
        return _wrapped(self._under.get_layer(index), ILayer)

    def get_input(self, index):
        return _wrapped(self._under.get_input(index), ITensor)

    def get_output(self, index):
        return _wrapped(self._under.get_output(index), ITensor)


class _Module:
    """The module `tensorrt`: the layers' classes are the wrappers', the rest is the embedded engine's."""

    def __init__(self):
        classes = {"ILayer": ILayer, "ITensor": ITensor}

        def shown(kind):
            if kind.__name__ not in classes:
                classes[kind.__name__] = _class(kind, shown(kind.__mro__[1]))
            return classes[kind.__name__]

        for kind in vars(embedded).values():
            if inspect.isclass(kind) and issubclass(kind, embedded.ILayer):
                shown(kind)
        self.__dict__.update(classes)

    def __getattr__(self, name):
        return getattr(embedded, name)


MODULE = _Module()


def as_bindings(network):
    """The module and the network as NVIDIA's bindings show them."""
    return MODULE, _wrapped(network, _Network)


_ROLES = {
    embedded.LayerType.CONSTANT: (embedded.IConstantLayer, ("weights",)),
    embedded.LayerType.CONVOLUTION: (embedded.IConvolutionLayer, ("kernel", "bias")),
    embedded.LayerType.DECONVOLUTION: (embedded.IDeconvolutionLayer, ("kernel", "bias")),
    embedded.LayerType.SCALE: (embedded.IScaleLayer, ("shift", "scale", "power")),
}


def weights_of(network):
    """The weights that the bindings do not give back, as `oracle.evaluate` and `lower` take them."""
    found = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        kind, roles = _ROLES.get(embedded.ILayer.type.__get__(layer), (None, ()))
        for role in roles:
            weights = getattr(kind._view(layer._node), role)
            if not isinstance(weights, np.ndarray):
                array = weights.numpy()
                weights = array if isinstance(array, np.ndarray) else weights.packed_bytes()
            if weights.dtype.str[1:] not in _ARRAYS or weights.dtype == np.uint8:
                found[layer.name if role == "weights" else f"{layer.name}.{role}"] = weights
    return found
