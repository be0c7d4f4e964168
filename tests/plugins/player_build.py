"""Compiles the program that plays TensorRT's part (tensorrt_player/; not TensorRT), and a plugin library for it.

The headers of TensorRT's releases lie in folders v8.6.1, v10.14 and v11.1 of the folder that TENSORRT_HEADERS names,
each with NVIDIA's own `include` in it.

For a GPU the program is compiled ahead, beside the library that it is to drive:

python tests/plugins/player_build.py --headers HEADERS/v10.14 --library LIBRARY --output build/played/v10.14
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from cpu_library import BUILT, REPOSITORY, WARNINGS, compiler, cuda_include, digest, made, version_of

PLAYER = Path(__file__).parent / "tensorrt_player"
ADAPTERS = REPOSITORY / "plugins/tensorrt"
VARIABLE = "TENSORRT_HEADERS"
RELEASES = ("v8.6.1", "v10.14", "v11.1")
# Compiled as one, because TensorRT's headers are long.
PROGRAM = ("host_v2", "host_v3", "tensors", "play_build", "play_run", "allocations", "player")
LIBRARY = ("nvinfer_part", "expressions")
OPERATIONS = (
    *("fields", "operation", "operations", "gated_activation", "residual_norm"),
    *("feed_forward_plans", "feed_forward", "tuning_memory", "blob"),
)
INTERFACES = (
    *("info", "logging", "tensorrt_library", "translate", "layer", "plugin_v2", "plugin_v3"),
    *("plugin_v3_fields", "registration"),
)


@dataclass(frozen=True)
class Played:
    """The program, and the plugin library that it drives: both of one release's headers."""

    release: str
    program: Path
    library: Path

    @property
    def major(self) -> int:
        return int(self.release.removeprefix("v").split(".")[0])


def headers_of(release: str) -> Path:
    """The folder that has the release's NvInfer.h; skips where there is none."""
    folder = os.environ.get(VARIABLE, "")
    include = Path(folder) / release / "include"
    if not (include / "NvInferRuntime.h").exists():
        pytest.skip(f"{VARIABLE}={folder} has no {release}/include/NvInferRuntime.h")
    return include


@functools.cache
def build_on_cpu(release: str, kernels: Path) -> Played:
    """The program and a plugin library whose kernels are those of `kernels`, compiled for the CPU."""
    include = headers_of(release)
    memory = _object("memory_on_cpu", [PLAYER / "memory_on_cpu.cpp"], [])
    limited = _object("limited_memory", [PLAYER / "memory_on_cpu.cpp"], ["-DIN_THE_PLUGIN_LIBRARY"])
    operations = _object("operations", _paths(ADAPTERS, OPERATIONS), [])
    interfaces = _object("interfaces", _paths(ADAPTERS, INTERFACES), [*_system(include), *_ARCHITECTURES])
    exports = f"-Wl,--version-script={ADAPTERS / 'exports.map'}"
    link = [
        "-shared",
        *map(str, (operations, interfaces, limited, kernels)),
        exports,
        *_rpath(kernels),
        "-ldl",
    ]
    link += ["-Wl,-z,nodelete", "-Wl,-z,defs"]
    library = made(BUILT / f"libplugins-{release}-{_key(link)}.so", link)
    part, player = build_player(include, ["-DTENSORRT_PLAYER_ON_CPU"])
    link = [str(player), str(memory), str(part), *_rpath(part), "-ldl"]
    return Played(release, made(BUILT / f"player-{release}-{_key(link)}.bin", link), library)


def build_player(include: Path, flags: list[str]) -> tuple[Path, Path]:
    """TensorRT's part as a library, and the program's object."""
    options = [*_system(include), *flags]
    part = _object("nvinfer_part", _paths(PLAYER, LIBRARY), options)
    link = ["-shared", str(part), "-ldl"]
    return made(BUILT / f"libnvinfer_part-{_key(link)}.so", link), _object(
        "player", _paths(PLAYER, PROGRAM), options
    )


def build_for_gpu(headers: Path, library: Path, output: Path) -> None:
    """Writes the program and what it takes into the folder `output`, linked with CUDA's own runtime."""
    include = headers / "include"
    # Another compiler than the one that these sources were written with may warn of more.
    part, player = build_player(include, ["-Wno-error"])
    output.mkdir(parents=True, exist_ok=True)
    shutil.copy(part, output / "libnvinfer_part.so")
    shutil.copy(library, output / "libtrtllm_ext_plugins.so")
    runtime = _static_runtime(cuda_include().parent)
    # By the name that the linker notes, the program finds it where both lie then.
    place = [f"-L{output}", "-l:libnvinfer_part.so", "-Wl,-rpath,$ORIGIN"]
    link = [str(player), str(runtime), *place, "-ldl", "-lrt", "-lpthread"]
    program = made(BUILT / f"player-gpu-{_key([*link, part.name])}.bin", link)
    shutil.copy(program, output / "player")


def _static_runtime(cuda: Path) -> Path:
    """CUDA's runtime to link: its folder has another name in each kind of installation."""
    for folder in ("lib64", "targets/x86_64-linux/lib", "lib"):
        if (cuda / folder / "libcudart_static.a").exists():
            return cuda / folder / "libcudart_static.a"
    raise SystemExit(f"{cuda} has no libcudart_static.a: name CUDA's folder with CUDA_HOME")


_ARCHITECTURES = ['-DTRTLLM_EXT_ARCHITECTURES="90a"']


def _paths(folder: Path, names: tuple[str, ...]) -> list[Path]:
    return [folder / f"{name}.cpp" for name in names]


def _system(include: Path) -> list[str]:
    return ["-isystem", str(include)]


def _rpath(library: Path) -> list[str]:
    return [f"-Wl,-rpath,{library.parent}"]


def _key(arguments: list[str]) -> str:
    return digest([ADAPTERS / "exports.map"], *arguments)


def _object(name: str, sources: list[Path], options: list[str]) -> Path:
    """All sources compiled as one."""
    flags = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", *WARNINGS, *options]
    if name in ("nvinfer_part", "player"):
        # Its operator new is the plugin library's, too.
        flags.remove("-fvisibility=hidden")
    flags += [f"-I{REPOSITORY}", f"-I{PLAYER}", "-isystem", str(cuda_include())]
    folders = {ADAPTERS, PLAYER, REPOSITORY / "plugins/kernels"}
    read = sorted(path for folder in folders for path in folder.rglob("*.h"))
    key = digest([*read, *sources], version_of(compiler()), *flags)
    included = [flag for source in sources[:-1] for flag in ("-include", str(source))]
    return made(BUILT / f"{name}-{key}.o", ["-c", *flags, *included, "-x", "c++", str(sources[-1])])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--headers", type=Path, required=True, help="the folder with TensorRT's include/")
    parser.add_argument("--library", type=Path, required=True, help="the plugin library for the same headers")
    parser.add_argument("--output", type=Path, required=True, help="the folder to write to")
    given = parser.parse_args()
    build_for_gpu(given.headers, given.library, given.output)


if __name__ == "__main__":
    main()
