"""What a dressed engine shows of itself, and keeps of its uses: see `dressed_tensorrt.py`."""

import functools
import inspect
import sys
import weakref
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from types import ModuleType

from tensorrt_surface import Given, refusal

import trtllm_ext.embedded as embedded

_OURS = "trtllm_ext"
# The plugins in Python are the embedded engine's, as its own code is.
_INSIDE = ("trtllm_ext.embedded", "trtllm_ext.plugin.embedded_creators")
# TensorRT tells nothing of a collective, and the embedded engine's own lowering has to know.
_TOLD_TO_THE_LOWERING = ("IDistCollectiveLayer",)

# What stands for a class in a release that does not have it yet.
_BEFORE = {"IPluginV3Layer": "IPluginV2Layer"}

NOTHING = Given()

# Tensors whose type the package has set.
TYPED: "weakref.WeakSet[embedded.ITensor]" = weakref.WeakSet()


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
    """What is shown and what was used.

    surface: of the release; None where everything is shown. otherwise: by class and member, what gives that member for
    an object where the release's is not the embedded engine's.
    """

    def __init__(self, surface=None, otherwise=()):
        self.surface = surface
        self.uses = Counter()
        self.otherwise = dict(otherwise)

    def note(self, what, owner, name, by, given=None):
        """Keep a use of the package's."""
        if _is_ours(by):
            self.uses[Use(what, owner, name, by, given or NOTHING)] += 1

    def member(self, owner, name):
        """The member as the release has it. Raises AttributeError when it has none."""
        if self.surface is None:
            return None
        if owner not in self.surface:
            owner = _BEFORE.get(owner, owner)
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


class Module(ModuleType):
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
        extra = (owner, name) in dress.otherwise
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
        members = {key: each for key, each in real.__members__.items() if not shown or key in shown}
        return _Members(members, dress, owner, by)
    if shown and name not in shown:
        raise AttributeError(f"{owner} has no {name} in TensorRT {dress.surface.release}")
    dress.note("enumerator", owner, name, by)
    return _shown(real, name, dress)


class _Members(dict):
    """`__members__` of an enumeration, which keeps what is taken out of it."""

    def __init__(self, members, dress, owner, by):
        super().__init__(members)
        self._note = lambda name: dress.note("enumerator", owner, name, by)

    def __getitem__(self, name):
        value = super().__getitem__(name)
        self._note(name)
        return value

    def get(self, name, default=None):
        try:
            return self[name]
        except KeyError:
            return default


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


def hook(cls, dress):
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
        if owner in _TOLD_TO_THE_LOWERING and by.startswith(f"{_OURS}.lowering."):
            return plain_get(self, name)
        member = dress.member(owner, name)
        extra = dress.otherwise.get((owner, name))
        try:
            value = extra(self) if extra else plain_get(self, name)
        except AttributeError:
            if member is None:
                raise
            value = _Missing(
                f"TensorRT {dress.surface.release} has {owner}.{name}; the embedded engine has not"
            )
        if inspect.ismethod(value) or inspect.isfunction(value):
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
                if (owner, name) == ("ITensor", "dtype"):
                    TYPED.add(self)
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
    shown = next(each.__name__ for each in cls.__mro__ if each in public())
    holder = next((each for each in cls.__mro__ if name in each.__dict__), None)
    if holder is None:
        return (shown, False) if cls in public() else (None, False)
    if holder.__module__.startswith(_OURS) and not holder.__module__.startswith(_INSIDE):
        return None, False
    return shown, True


@functools.cache
def _is_ours(module):
    return module.startswith(f"{_OURS}.") and not module.startswith(_INSIDE)


@functools.cache
def classes():
    values = {name: getattr(embedded, name) for name in embedded.__all__}
    return {
        name: each for name, each in values.items() if inspect.isclass(each) and not issubclass(each, Enum)
    }


@functools.cache
def public():
    return frozenset(classes().values())
