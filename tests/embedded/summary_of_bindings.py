"""Writes tests/tensorrt_surface.json: what the bindings of three releases of TensorRT contain, not their prose.

    PYTHONPATH=tests python tests/embedded/summary_of_bindings.py FOLDER

FOLDER keeps the bindings that are fetched. `tensorrt_surface.py` says how the file reads.
"""

import argparse
import json
import re
from pathlib import Path

from bindings import NEWER, OLDER, VERSION, surface_of_bindings

RELEASES = (OLDER, VERSION, NEWER)
TARGET = Path(__file__).parents[1] / "tensorrt_surface.json"

# What is written otherwise from release to release, though it takes the same arguments.
_SAME = (
    (re.compile(r"\btensorrt_bindings\.tensorrt\.|\btyping\.|\bcollections\.abc\."), ""),
    (re.compile(r"<\w+\.(\w+): -?\d+>"), r"\1"),
    (re.compile(r"\bSupportsInt\b|\bSupportsIndex\b"), "int"),
    (re.compile(r"\bSupportsFloat\b"), "float"),
    (re.compile(r"\bSequence\["), "List["),
    (re.compile(r"\btyping_extensions\.Buffer\b"), "buffer"),
    (re.compile(r"\bnvinfer1::(?:\w+::)?(?=\w)"), ""),
    (re.compile(r"^self: \w+(, )?"), ""),
)
_PROTOCOL = ("__init__", "__len__", "__getitem__", "__setitem__", "__iter__", "__call__")


def main():
    """Fetch the releases and write the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(
        text_of({release: summary(surface_of_bindings(folder, release)) for release in RELEASES})
    )


def text_of(releases):
    """The summaries as JSON, one line for each class or other name.

    releases: release -> summary. What all releases that have it say alike, in all of them, stands as it is; the rest
    by the releases' major versions.
    """
    names = sorted({name for each in releases.values() for name in each})
    lines = [f'"releases":{_json(list(releases))}']
    majors = {release.split(".")[0]: each for release, each in releases.items()}
    lines += [
        f'"{name}":{_json(_merged({major: each.get(name) for major, each in majors.items()}))}'
        for name in names
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _merged(found):
    """One entry for what each release says: major -> entry or None. Classes are merged member by member."""
    if all(entry is not None and "members" in entry for entry in found.values()):
        members = sorted({name for each in found.values() for name in each["members"]})
        told = {name: {major: each["members"].get(name) for major, each in found.items()} for name in members}
        bases = _merged({major: each["bases"] for major, each in found.items()})
        return {"bases": bases, "members": {name: _merged(each) for name, each in told.items()}}
    groups = {}
    for major, entry in found.items():
        if entry is not None:
            groups.setdefault(_json(entry), []).append(major)
    if list(groups.values()) == [list(found)]:
        return next(iter(found.values()))
    return {"by release": {" ".join(held): json.loads(entry) for entry, held in groups.items()}}


def of_release(entry, major):
    """What an entry of the summary says of one release; None for nothing."""
    if not isinstance(entry, dict):
        return entry
    if "by release" in entry:
        return next((each for majors, each in entry["by release"].items() if major in majors.split()), None)
    if "members" not in entry:
        return entry
    members = {name: of_release(each, major) for name, each in entry["members"].items()}
    return {
        "bases": of_release(entry["bases"], major),
        "members": {name: each for name, each in members.items() if each is not None},
    }


def _json(value):
    return json.dumps(value, separators=(",", ":"))


def summary(surface):
    """What `surface_of_bindings` gives, without prose: see tensorrt_surface.py."""
    public = {
        name: entry for name, entry in surface.items() if not name.startswith("_") or name == "__version__"
    }
    return {name: _entry(name, entry) for name, entry in sorted(public.items())}


def _entry(name, entry):
    if "bases" not in entry:
        return {"calls": _signatures(name, entry["doc"])} if entry["callable"] else {}
    if "enumerators" in entry:
        return {"enumerators": sorted(entry["enumerators"], key=entry["enumerators"].get)}
    own = {
        member: each
        for member, each in entry["members"].items()
        if each["owner"] == name and (not member.startswith("_") or member in _PROTOCOL)
    }
    members = {member: _member(member, each) for member, each in sorted(own.items())}
    if members.get("__init__") == "r":  # there is no constructor
        del members["__init__"]
    return {"bases": entry["bases"], "members": members}


def _member(name, member):
    mark = "!" if re.search("deprecated", member["doc"] + member["note"], re.IGNORECASE) else ""
    if member["kind"] == "property":
        return mark + ("rw" if member["settable"] else "r")
    if signatures := _signatures(name, member["doc"]):
        return [mark + signature for signature in signatures]
    return mark + ("()" if member["kind"] in ("instancemethod", "function", "staticmethod") else "r")


def _signatures(name, doc):
    """The overloads that a docstring begins with, as the text between their parentheses."""
    found = []
    for line in doc.splitlines():
        match = re.match(rf"(?:\d+\. )?{re.escape(name)}\((.*)\)(?: -> .*)?$", line.strip())
        if match and match[1] != "*args, **kwargs":
            text = match[1]
            for pattern, plain in _SAME:
                text = pattern.sub(plain, text)
            found.append(text)
    return found


if __name__ == "__main__":
    main()
