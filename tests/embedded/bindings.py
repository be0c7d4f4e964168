"""TensorRT's real Python bindings, imported without TensorRT: for their names, parameters and enumerators only.

The bindings are in the package registry; what they are linked against is replaced by stub libraries of a few functions,
so nothing of them can be used beyond looking at it. Run as a script, this prints what it sees of a release as JSON:
`PYTHONPATH=tests python tests/embedded/bindings.py FOLDER VERSION`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tensorrt_surface import parameters

VERSION = "10.14.1.48.post1"
NEWER = "11.4.0.106"
OLDER = "8.6.1"
# Seconds that pip may take.
_PATIENCE = 60

_LIBRARIES = ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser")
_STUB = """
void *createInferBuilder_INTERNAL(void *logger, int version) { return 0; }
void *createInferRuntime_INTERNAL(void *logger, int version) { return 0; }
void *createInferRefitter_INTERNAL(void *engine, void *logger, int version) { return 0; }
void *createNvOnnxParser_INTERNAL(void *network, void *logger, int version) { return 0; }
void *createNvOnnxParserRefitter_INTERNAL(void *refitter, void *logger, int version) { return 0; }
int getNvOnnxParserVersion(void) { return 0; }
void *getPluginRegistry(void) { return 0; }
void *getBuilderPluginRegistry(int capability) { return 0; }
int initLibNvInferPlugins(void *logger, char const *library_namespace) { return 1; }
"""
# The parsers of Caffe and UFF, which TensorRT 8 still has: C++ names.
_STUB_OF_8 = """
void *uff(void) __asm__("_ZN11nvuffparser15createUffParserEv");
void *uff(void) { return 0; }
void field(void) __asm__("_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi");
void field(void) {}
void *caffe(void) __asm__("_ZN14nvcaffeparser117createCaffeParserEv");
void *caffe(void) { return 0; }
void protobuf(void) __asm__("_ZN14nvcaffeparser123shutdownProtobufLibraryEv");
void protobuf(void) {}
"""


@dataclass(frozen=True)
class _Package:
    """Where the bindings of a major version come from: package, Pythons that it has wheels for, stub libraries."""

    name: str
    pythons: tuple[tuple[int, int], ...]
    libraries: tuple[str, ...] = _LIBRARIES
    stub: str = _STUB


_NEW = _Package("tensorrt_cu13_bindings", ((3, 11), (3, 12), (3, 13)))
_PACKAGES = {
    "8": _Package("tensorrt_bindings", ((3, 11),), (*_LIBRARIES, "libnvparsers"), _STUB + _STUB_OF_8),
    "10": _NEW,
    "11": _NEW,
}

# Runs where the bindings can be imported.
_DUMP = """
import inspect, json
import tensorrt_bindings as tensorrt

def members(cls):
    for name in dir(cls):
        static = inspect.getattr_static(cls, name)
        owner = next(base.__name__ for base in cls.__mro__ if name in base.__dict__)
        if owner in ("object", "pybind11_object"):
            continue
        kind = type(static).__name__
        yield name, {
            "kind": kind,
            "owner": owner,
            "doc": (getattr(cls, name).__doc__ if kind != "property" else "") or "",
            "settable": kind == "property" and static.fset is not None,
            "note": (static.__doc__ if kind == "property" else "") or "",
        }

def describe(value):
    if not inspect.isclass(value):
        return {"repr": repr(value), "callable": callable(value), "doc": getattr(value, "__doc__", None) or ""}
    bases = [base.__name__ for base in value.__mro__[1:] if base.__name__ not in ("object", "pybind11_object")]
    found = {"bases": bases, "members": dict(members(value))}
    if hasattr(value, "__members__"):
        found["enumerators"] = {name: int(member) for name, member in value.__members__.items()}
    return found

print(json.dumps({name: describe(getattr(tensorrt, name)) for name in dir(tensorrt)}))
"""


class Unavailable(Exception):  # noqa: N818
    """The bindings cannot be had here; the text is the reason."""


def surface_of_bindings(folder, version=VERSION):
    """What the bindings of a release contain, by name. `folder` keeps what is fetched and made.

    A class has `bases`, `members` and, if it is an enumeration, `enumerators`; anything else has its `repr` and `doc`.
    Raises Unavailable with the reason.
    """
    package = _PACKAGES[version.split(".")[0]]
    if sys.version_info[:2] not in package.pythons:
        raise Unavailable(
            f"the bindings of {version} have no wheel for Python {sys.version_info[0]}.{sys.version_info[1]}"
        )
    site = _unpacked(Path(folder), package, version)
    libraries = _stubs(Path(folder), package, version.split(".")[0])
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", _DUMP], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Unavailable(f"the bindings cannot be imported: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def _unpacked(folder, package, version):
    site = folder / f"site-{version}"
    if not site.exists():
        wheels = folder / f"wheel-{version}"
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--retries",
            "1",
            "--timeout",
            "10",
            "--no-deps",
            "--disable-pip-version-check",
        ]
        try:
            done = subprocess.run(
                [*command, "--only-binary", ":all:", "-d", str(wheels), f"{package.name}=={version}"],
                capture_output=True,
                text=True,
                timeout=_PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Unavailable(f"pip did not get {package.name}=={version} in {_PATIENCE} s") from None
        found = list(wheels.glob("*.whl")) if wheels.exists() else []
        if done.returncode or not found:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise Unavailable(f"pip cannot get {package.name}=={version}: {reason}")
        partial = folder / f"partial-{version}-{os.getpid()}"
        with zipfile.ZipFile(found[0]) as wheel:
            wheel.extractall(partial)
        try:
            partial.rename(site)
        except OSError:  # another process was faster
            shutil.rmtree(partial)
    return site


def _stubs(folder, package, major):
    """The folder of the stub libraries: one file, by all the names that the bindings look for."""
    libraries = folder / f"stubs-{major}"
    names = [libraries / f"{library}.so.{major}" for library in package.libraries]
    if all(name.exists() for name in names):
        return libraries
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise Unavailable("there is no C compiler for the stub libraries")
    libraries.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as made:
        source, library = Path(made) / "stub.c", Path(made) / "stub.so"
        source.write_text(package.stub)
        command = [compiler, "-shared", "-fPIC", "-o", str(library), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unavailable(f"the C compiler cannot make stub libraries: {done.stderr.strip()}")
        for name in names:
            name.unlink(missing_ok=True)
            os.link(library, name)
    return libraries


def overloads(name, doc):
    """The parameters of every overload that pybind11 writes at the start of a docstring, as (name, default text)."""
    found = []
    for line in doc.splitlines():
        match = re.match(rf"(?:\d+\. )?{re.escape(name)}\((.*)\)(?: -> .*)?$", line.strip())
        if match and match[1] != "*args, **kwargs":
            found.append([(each, default) for each, _, default in parameters(match[1])])
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(surface_of_bindings(*sys.argv[1:3])))
