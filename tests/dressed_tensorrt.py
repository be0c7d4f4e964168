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
are INT32, a shape layer is followed by a cast to INT32; in 11 all networks are strongly typed, whatever the flag. What
the release has and the embedded engine has not is there for `hasattr`; to call it is a LookupError.
"""

import functools
import importlib
import inspect
import sys
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import Enum
from types import ModuleType
from unittest import mock

from tensorrt_surface import Given, Surface, refusal

import trtllm_ext.embedded as embedded
from trtllm_ext import backend
from trtllm_ext.runtime import session
from trtllm_ext.runtime.memory import HostMemory

# Not `from trtllm_ext.lowering import lower`: the package has the function under that name.
lower = importlib.import_module("trtllm_ext.lowering.lower")

_OURS = "trtllm_ext"
_INSIDE = "trtllm_ext.embedded"


NOTHING = Given()


@dataclass(frozen=True)
class Use:
    """One way in which the package uses a name: `what` is get, set, call or enumerator; `by` the module that does."""

    what: str
    owner: str
    name: str
    by: str
    given: Given = NOTHING

    def __str__(self):
        place = f"{self.owner}.{self.name}" if self.owner else self.name
        return f"{self.what} {place}{self.given if self.what == 'call' else ''} by {self.by}"


class Dress:
    """What is shown and what was used. `surface` is None where everything is shown."""

    def __init__(self, surface=None):
        self.surface = surface
        self.uses = Counter()

    def note(self, what, owner, name, by, given=None):
        """Keep a use."""
        self.uses[Use(what, owner, name, by, given or NOTHING)] += 1

    def member(self, owner, name):
        """The member as the release has it. Raises AttributeError when it has none."""
        if self.surface is None:
            return None
        found = self.surface.member(owner, name)
        if found is None:
            raise AttributeError(f"{owner} has no attribute {name!r} in TensorRT {self.surface.release}")
        return found

    def checked(self, call, member, owner, name, by):
        """`call`, keeping its uses. Raises TypeError for arguments that the release does not take."""

        @functools.wraps(call)
        def checked(*arguments, **keywords):
            given = Given.of(arguments, keywords)
            reason = member and refusal(member, given)
            if reason:
                raise TypeError(f"{owner}.{name}{given} in TensorRT {self.surface.release}: {reason}")
            self.note("call", owner, name, by, given)
            return call(*arguments, **keywords)

        return checked


@contextmanager
def dressed(release, engine="embedded"):
    """The block runs with the embedded engine dressed as `release`; gives the Dress.

    engine: which engine it is to the package. As "tensorrt" it is NVIDIA's, on a device of compute capability 9.0 whose
    buffers are on the host.
    """
    with ExitStack() as stack:
        dress = Dress(Surface(release))
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
    module, before = _Module(dress), sys.modules.get(name)
    roots = [each for each in _classes().values() if not any(base in _public() for base in each.__mro__[1:])]
    environment = {backend.ENVIRONMENT_VARIABLE: engine}
    with (
        mock.patch.dict("os.environ", environment),
        mock.patch.object(backend, "EMBEDDED_MODULE", name),
        mock.patch.object(lower, "lower", _lowering_from(module)),
    ):
        sys.modules[name] = module  # not by mock.patch.dict, which would forget what is imported in the block
        undo = [_hook(each, dress) for each in roots]
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


class _Module(ModuleType):
    """The dressed module."""

    def __init__(self, dress):
        super().__init__("tensorrt")
        self.__dict__["_dress"] = dress

    def __getattr__(self, name):
        dress = self.__dict__["_dress"]
        if dress.surface is not None and name not in dress.surface:
            raise AttributeError(f"TensorRT {dress.surface.release} has no {name}")
        by = sys._getframe(1).f_globals["__name__"]
        if name == "__version__" and dress.surface is not None:
            return dress.surface.release
        value = _shown(embedded, name, dress)
        if _is_ours(by):
            dress.note("get", "", name, by)
        if inspect.isclass(value):
            return _ClassView(dress, name, value)
        if inspect.isfunction(value):
            member = dress.surface and dress.surface.function(name)
            return dress.checked(value, member, "", name, by)
        return value


class _ClassView:
    """A class of the dressed module: to be asked, called, compared with and derived from."""

    def __init__(self, dress, name, real):
        vars(self).update(_dress=dress, _name=name, _real=real)

    def __getattribute__(self, name):
        fields = object.__getattribute__(self, "__dict__")
        if name in ("__dict__", "__mro_entries__"):
            return object.__getattribute__(self, name)
        dress, owner, real = fields["_dress"], fields["_name"], fields["_real"]
        if name in fields or (name[:2] == "__" and name != "__members__"):
            return fields[name] if name in fields else getattr(real, name)
        by = sys._getframe(1).f_globals["__name__"]
        if issubclass(real, Enum):
            return _enumerator(dress, owner, real, name, by)
        member = dress.member(owner, name)
        extra = dress.surface and (dress.surface.major, owner, name) in _EXTRA
        value = None if extra else _shown(real, name, dress)
        if not inspect.isfunction(value):
            return value
        # Called on the class, a method gets the object first, which the bindings' parameters leave out.
        return lambda this, *rest, **more: dress.checked(
            functools.partial(value, this), member, owner, name, by
        )(*rest, **more)

    def __call__(self, *arguments, **keywords):
        dress, name, real = self._dress, self._name, self._real
        member = None if issubclass(real, Enum) else dress.member(name, "__init__")
        by = sys._getframe(1).f_globals["__name__"]
        return dress.checked(real, member, name, "__init__", by)(*arguments, **keywords)

    def __mro_entries__(self, bases):
        return (self._real,)

    def __instancecheck__(self, value):
        return isinstance(value, self._real)

    def __subclasscheck__(self, each):
        return issubclass(each, self._real)

    def __eq__(self, other):
        return self._real is (other._real if isinstance(other, _ClassView) else other)

    def __hash__(self):
        return hash(self._real)

    def __repr__(self):
        return f"<{self._name}, dressed>"


def _enumerator(dress, owner, real, name, by):
    shown = dress.surface and dress.surface.enumerators(owner)
    if name == "__members__":
        return {key: each for key, each in real.__members__.items() if not shown or key in shown}
    if shown and name not in shown:
        raise AttributeError(f"{owner} has no {name} in TensorRT {dress.surface.release}")
    if _is_ours(by):
        dress.note("enumerator", owner, name, by)
    return _shown(real, name, dress)


def _shown(of, name, dress):
    """`of.name`, which the release has, or what stands for it where the embedded engine has none."""
    try:
        return getattr(of, name)
    except AttributeError:
        if dress.surface is None:
            raise
        return _Missing(f"TensorRT {dress.surface.release} has {name}, which the embedded engine has not")


class _Missing:
    """Stands for what a release has and the embedded engine has not: it is there, and cannot be used."""

    def __init__(self, reason):
        self._reason = reason

    def __call__(self, *arguments, **keywords):
        raise LookupError(self._reason)


def _hook(cls, dress):
    """Have a class, and those derived from it, show and keep what the package does; gives what undoes that."""
    plain_get, plain_set = cls.__getattribute__, cls.__setattr__
    had = {name: cls.__dict__[name] for name in ("__getattribute__", "__setattr__") if name in cls.__dict__}

    def get(self, name):
        by = sys._getframe(1).f_globals["__name__"]
        if name[:2] == "__" or not _is_ours(by):
            return plain_get(self, name)
        owner, kept = _owner(type(self), name)
        if owner is None:
            return plain_get(self, name)
        member = dress.member(owner, name)
        extra = dress.surface and _EXTRA.get((dress.surface.major, owner, name))
        try:
            value = extra(self) if extra else plain_get(self, name)
        except AttributeError:
            if member is None:
                raise
            value = _Missing(
                f"TensorRT {dress.surface.release} has {owner}.{name}; the embedded engine has not"
            )
        if inspect.ismethod(value) or extra:
            return dress.checked(value, member, owner, name, by)
        if kept:
            dress.note("get", owner, name, by)
        return value

    def put(self, name, value):
        by = sys._getframe(1).f_globals["__name__"]
        if name == "__class__":
            value = getattr(value, "_real", value)
        elif _is_ours(by):
            owner, kept = _owner(type(self), name)
            if owner is not None and kept:
                member = dress.member(owner, name)
                if member is not None and not member.settable:
                    raise AttributeError(f"{owner}.{name} cannot be set in TensorRT {dress.surface.release}")
                dress.note("set", owner, name, by)
        plain_set(self, name, value)

    cls.__getattribute__, cls.__setattr__ = get, put

    def undo():
        for name in ("__getattribute__", "__setattr__"):
            if name in had:
                setattr(cls, name, had[name])
            else:
                delattr(cls, name)

    return undo


@functools.cache
def _owner(cls, name):
    """(the public class that a member of `cls` is looked for in, whether it is the engine's own), or (None, False).

    A member that a class of the package itself has is of no interest.
    """
    public = next(each for each in cls.__mro__ if each in _public())
    holder = next((each for each in cls.__mro__ if name in each.__dict__), None)
    if holder is None:
        known = cls in _public() or any((public.__name__, name) == key[1:] for key in _EXTRA)
        return (public.__name__, False) if known else (None, False)
    if holder.__module__.startswith(_OURS) and not holder.__module__.startswith(_INSIDE):
        return None, False
    return public.__name__, True


@functools.cache
def _is_ours(module):
    return module.startswith(f"{_OURS}.") and not module.startswith(_INSIDE)


@functools.cache
def _classes():
    values = {name: getattr(embedded, name) for name in embedded.__all__}
    return {
        name: each for name, each in values.items() if inspect.isclass(each) and not issubclass(each, Enum)
    }


@functools.cache
def _public():
    return frozenset(_classes().values())


def _shape_of_8(network):
    def add_shape(input):
        layer = network.add_shape(input)
        return layer if layer is None else network.add_cast(layer.get_output(0), embedded.DataType.INT32)

    return add_shape


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


# What a release does otherwise than the embedded engine, or has beyond it: (major version, class, member).
_EXTRA = {
    ("8", "INetworkDefinition", "add_shape"): _shape_of_8,
    ("11", "Builder", "create_network"): _network_of_11,
    ("11", "INetworkDefinition", "add_normalization_v2"): _normalization_v2,
}
