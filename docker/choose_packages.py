"""Prints which of the wheels in a folder an image lacks; those of the image itself stay as they are.

    python3 choose_packages.py FOLDER        (with the Python of the image, before anything is installed)

A package is taken from the folder where the image has none, or has one of a version that another package taken does not
work with. It then lies in an environment of its own, above the image's. Exit code 1, with a sentence, where that would
be one of KEPT.
"""

import re
import sys
import zipfile
from collections.abc import Mapping
from email.parser import Parser
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# TensorRT, and what was built together with it or with the GPU's driver.
KEPT = re.compile(r"(tensorrt|torch|numpy|mpi4py|mpich|triton$|cuda|nvidia|transformers)")


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: choose_packages.py FOLDER", file=sys.stderr)
        return 2
    wheels = {name_of(path): path for path in sorted(Path(sys.argv[1]).glob("*.whl"))}
    image = {canonicalize_name(each.name): each.version for each in metadata.distributions() if each.name}
    try:
        chosen = choose({name: requirements(path) for name, path in wheels.items()}, image)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    for name in chosen:
        print(f"{name}: the image has {image.get(name, 'none')}", file=sys.stderr)
        print(wheels[name])
    return 0


def choose(asked: Mapping[str, list[Requirement]], image: Mapping[str, str]) -> list[str]:
    """The names that the image lacks. asked: of each wheel, what it needs; image: the versions that are there.

    Raises ValueError where none has what one of them needs, or KEPT forbids it.
    """
    chosen = {name for name in asked if name not in image}
    open_ones = sorted(chosen)
    while open_ones:
        name = open_ones.pop()
        for need in asked[name]:
            other = canonicalize_name(need.name)
            is_met = other in image and need.specifier.contains(image[other], prereleases=True)
            if is_met or other in chosen:
                continue
            if KEPT.match(other) or (other not in asked and other in image):
                raise ValueError(
                    f"{name} needs {need}, and the image has {image.get(other, 'none')}, which it keeps"
                )
            if other in asked:
                chosen.add(other)
                open_ones.append(other)
    return sorted(chosen)


def requirements(wheel: Path) -> list[Requirement]:
    """What a wheel needs on this Python, without its extras."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        fields = Parser().parsestr(archive.read(name).decode())
    needs = [Requirement(line) for line in fields.get_all("Requires-Dist") or ()]
    return [need for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]


def name_of(wheel: Path) -> str:
    return canonicalize_name(wheel.name.partition("-")[0])


if __name__ == "__main__":
    sys.exit(main())
