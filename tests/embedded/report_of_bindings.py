"""Writes docs/tensorrt_11.md: what differs between two releases of TensorRT's Python bindings.

    PYTHONPATH=tests python tests/embedded/report_of_bindings.py FOLDER [NEWER]

FOLDER keeps the bindings that are fetched. The older release is the one whose API the embedded engine has.
"""

import argparse
from pathlib import Path

from bindings import NEWER, VERSION, overloads, surface_of_bindings

TARGET = Path(__file__).parents[2] / "docs" / "tensorrt_11.md"

HEAD = """# TensorRT {new} beside {old}

What changed in the Python bindings from the release whose API the embedded engine has ({old}) to {new}: names,
members, parameters, enumerators; what a class inherits stands at the class that it inherits from. Read from both
releases' own bindings by `tests/embedded/report_of_bindings.py`, which writes this page; nothing of {new} was run.
Code that is to run on both uses what is on no list here, and numbers no enumerator itself.
"""


def main():
    """Fetch both releases and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("newer", nargs="?", default=NEWER)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    old, new = (surface_of_bindings(arguments.folder, version) for version in (VERSION, arguments.newer))
    TARGET.write_text(report(old, new, VERSION, arguments.newer))


def report(old, new, old_version, new_version):
    """The page."""
    both = sorted(name for name in set(old) & set(new) if "bases" in old[name] and "bases" in new[name])
    classes = [name for name in both if "enumerators" not in old[name]]
    enums = [name for name in both if "enumerators" in old[name]]
    parts = [
        HEAD.format(old=old_version, new=new_version),
        section("Names that are gone", [f"`{name}`" for name in public(old) if name not in new]),
        section("Names that are new", [f"`{name}`" for name in public(new) if name not in old]),
        section(
            "Enumerators that are gone",
            changes(enums, old, new, lambda entry: entry["enumerators"]),
        ),
        section("Enumerators that are new", changes(enums, new, old, lambda entry: entry["enumerators"])),
        section("Enumerators of another value", revalued(enums, old, new)),
        section("Members that are gone", changes(classes, old, new, public_members)),
        section("Members that are new", changes(classes, new, old, public_members)),
        section(
            "Parameters that changed", [line for name in classes for line in reparametrized(name, old, new)]
        ),
        section("Bases that changed", rebased(classes, old, new)),
    ]
    return "\n".join(parts)


def public(surface):
    """Names without a leading underscore."""
    return [name for name in sorted(surface) if not name.startswith("_")]


def section(title, lines):
    """A heading with a list, or the word none."""
    body = "\n".join(f"- {line}" for line in lines) if lines else "None."
    return f"## {title}\n\n{body}\n"


def public_members(entry):
    """A class's own members, with its constructor."""
    bases = set(entry["bases"])
    return [
        name
        for name, member in entry["members"].items()
        if member["owner"] not in bases and (not name.startswith("_") or name == "__init__")
    ]


def changes(names, before, after, parts):
    """One line a class: what `before` has and `after` lacks."""
    lines = []
    for name in names:
        gone = [part for part in parts(before[name]) if part not in parts(after[name])]
        if gone:
            lines.append(f"`{name}`: {', '.join(f'`{part}`' for part in gone)}")
    return lines


def revalued(names, old, new):
    """Enumerators whose number changed."""
    return [
        f"`{name}.{key}`: {value}, now {new[name]['enumerators'][key]}"
        for name in names
        for key, value in old[name]["enumerators"].items()
        if new[name]["enumerators"].get(key, value) != value
    ]


def reparametrized(name, old, new):
    """Methods of a class that take other parameters, or have other defaults."""
    lines = []
    for member in public_members(old[name]):
        if member not in new[name]["members"]:
            continue
        before, after = (overloads(member, surface[name]["members"][member]["doc"]) for surface in (old, new))
        if before != after:
            lines.append(f"`{name}.{member}`: {shown(before)}, now {shown(after)}")
    return lines


def shown(signatures):
    """Overloads as text."""
    texts = [
        "("
        + ", ".join(
            name if default is None else f"{name}={default}" for name, default in one if name != "self"
        )
        + ")"
        for one in signatures
    ]
    return " or ".join(f"`{text}`" for text in texts) or "nothing documented"


def rebased(names, old, new):
    """Classes that inherit from other classes."""
    return [
        f"`{name}`: {', '.join(old[name]['bases']) or 'none'}, now {', '.join(new[name]['bases']) or 'none'}"
        for name in names
        if old[name]["bases"] != new[name]["bases"]
    ]


if __name__ == "__main__":
    main()
