"""What the Python bindings of three releases of TensorRT contain, and whether a use of them is right.

Read from `tensorrt_surface.json`, which `embedded/summary_of_bindings.py` writes from the bindings themselves and
`embedded/test_surface_of_bindings.py` compares with them. In it stand, by name: a class with its bases and its own
members, an enumeration with its enumerators, or a function. A member is "r" (a property or a value), "rw" (a property
that may be set), "()" (a method of which no more is known) or a list, the parameters of each overload; "!" before it
says deprecated. What differs stands under "by release", by major versions.
"""

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("tensorrt_surface.json")

# Python values that pybind11 turns into a parameter of the type on the left, by the names of their classes.
_TAKEN = {
    "int": ("int", "bool"),
    "float": ("float", "int"),
    "bool": ("bool", "bool_"),
    "str": ("str",),
    "FallbackString": ("str",),
    "Iterable": ("list", "tuple"),
    "PluginFieldCollection_": ("PluginFieldCollection",),
    "Dims": ("list", "tuple"),
    "Permutation": ("list", "tuple"),
    "Weights": ("ndarray",),
    "numpy.ndarray": ("ndarray",),
    "buffer": ("bytes", "bytearray", "memoryview", "mmap", "ndarray", "IHostMemory"),
}
_ANYTHING = ("object", "handle", "capsule", "typing_extensions.CapsuleType", "Callable", "function")


@dataclass(frozen=True)
class Member:
    """A member of a class: `overloads` are the parameters of each, None where nothing is told of them."""

    overloads: tuple[str, ...] | None
    callable: bool
    settable: bool
    deprecated: bool


@dataclass(frozen=True)
class Given:
    """The arguments of a call: for each the names of its class and of that class's bases, no value."""

    positional: tuple[tuple[str, ...], ...] = ()
    keywords: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @classmethod
    def of(cls, arguments, keywords):
        """The arguments as they are."""
        return cls(
            tuple(map(_classes, arguments)), tuple((name, _classes(each)) for name, each in keywords.items())
        )

    def __str__(self):
        parts = [each[0] for each in self.positional] + [f"{name}: {each[0]}" for name, each in self.keywords]
        return f"({', '.join(parts)})"


class Surface:
    """One release. `release` is its number, as in `releases()`."""

    def __init__(self, release):
        self.release = release
        self.major = release.split(".")[0]
        entries = {name: self._here(entry) for name, entry in _file().items() if name != "releases"}
        self._entries = {name: entry for name, entry in entries.items() if entry is not None}
        self._found = {}

    def __contains__(self, name):
        """Whether the module has that name."""
        return name in self._entries

    def enumerators(self, name):
        """The names in an enumeration; None when it is none."""
        return self._entries.get(name, {}).get("enumerators")

    def function(self, name):
        """A function of the module, as a Member."""
        return _member(self._entries[name].get("calls") or "()")

    def member(self, owner, name):
        """A member of the class `owner` or of its bases, or None."""
        if (owner, name) not in self._found:
            self._found[owner, name] = self._member(owner, name)
        return self._found[owner, name]

    def _member(self, owner, name):
        entry = self._entries.get(owner, {})
        for base in (owner, *self._here(entry.get("bases", []))):
            told = self._here(self._entries.get(base, {}).get("members", {}).get(name))
            if told is not None:
                return _member(told)
        return None

    def _here(self, entry):
        if not isinstance(entry, dict) or "by release" not in entry:
            return entry
        return next(
            (each for majors, each in entry["by release"].items() if self.major in majors.split()), None
        )


def releases():
    """The releases that the file tells of, oldest first."""
    return tuple(_file()["releases"])


def refusal(member, given):
    """Why no overload of a member takes the arguments, or None where one does."""
    if not member.overloads:
        return None
    reasons = [_refusal(parameters(overload), given) for overload in member.overloads]
    return None if None in reasons else "; ".join(reasons)


@cache
def _file():
    return json.loads(FILE.read_text())


def _member(told):
    overloads = tuple(told) if isinstance(told, list) else None
    text = overloads[0] if overloads else told
    kind = "()" if overloads else text.removeprefix("!")
    return Member(
        overloads and tuple(each.removeprefix("!") for each in overloads),
        callable=kind == "()",
        settable=kind == "rw",
        deprecated=text.startswith("!"),
    )


def _classes(value):
    return tuple(base.__name__ for base in type(value).__mro__)


def _refusal(parameters, given):
    if len(given.positional) > len(parameters):
        return f"takes {len(parameters)} arguments, not {len(given.positional)}"
    names = [name for name, _, _ in parameters]
    filled = dict(zip(names, given.positional, strict=False))
    for name, value in given.keywords:
        if name not in names or name in filled:
            return f"has no parameter {name}" if name not in names else f"gets {name} twice"
        filled[name] = value
    for name, kind, default in parameters:
        if (
            name in filled
            and not _takes(kind, filled[name])
            and not (default == "None" and filled[name][0] == "NoneType")
        ):
            return f"wants a {kind} for {name}, not {filled[name][0]}"
        if name not in filled and default is None:
            return f"lacks the argument {name}"
    return None


def _takes(kind, classes):
    """Whether a value whose class and bases are `classes` passes for a parameter of the type `kind`."""
    if kind.startswith(("List[", "Iterable[", "Dict[")):
        return classes[0] in ("list", "tuple", "dict", "Dims") or "Sequence" in classes
    if inner := re.match(r"(?:Optional|Union)\[(.*)\]$", kind):
        return "NoneType" in classes or any(_takes(each.strip(), classes) for each in inner[1].split(","))
    if kind in _ANYTHING or not kind:
        return True
    if kind == "int" and "integer" in classes:  # of numpy
        return True
    if classes[0] == "NoneType":  # a pointer takes it
        return kind[:1] == "I" and kind[1:2].isupper()
    return kind.rsplit(".", 1)[-1] in classes or any(each in classes for each in _TAKEN.get(kind, ()))


def parameters(text):
    """The parameters of an overload as (name, type, default)."""
    parts, depth, part = [], 0, ""
    for character in text:
        depth += (character in "[(<{") - (character in "])>}")
        if character == "," and not depth:
            parts.append(part)
            part = ""
        else:
            part += character
    found = []
    for each in (*parts, part):
        if each.strip():
            declared, _, default = each.partition(" = ")
            name, _, kind = declared.partition(":")
            found.append((name.strip(), kind.strip(), default.strip() or None))
    return found
