"""plugins/kernels compiled for the CPU with the stand-in of cuda_on_cpu/, into a library that ctypes loads.

What is compiled is kept in build/kernels_on_cpu under the digest of all that went into it.
"""

import contextlib
import functools
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

STAND_IN = Path(__file__).parent / "cuda_on_cpu"
CUBLASLT = Path(__file__).parent / "cublaslt_on_cpu"
REPOSITORY = Path(__file__).parents[2]
KERNELS = REPOSITORY / "plugins/kernels"
BUILT = REPOSITORY / "build/kernels_on_cpu"
# What nobody has used for so long is removed.
UNUSED_S = 3 * 24 * 3600

# CUDA has a pragma of its own for loops, and its half types copy themselves by functions that compilers do not trust.
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-class-memaccess"]
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-fdata-sections", *WARNINGS]
ADDRESS_SANITIZER = ["-fsanitize=address", "-g1"]


def compiler() -> str:
    """The path of g++, which the stand-in is made for; skips where there is none."""
    found = shutil.which("g++")
    if found is None:
        pytest.skip("no g++ on the PATH: the kernels cannot be compiled for the CPU")
    return found


def cuda_include() -> Path:
    """CUDA's folder of headers: CUDA_HOME's, else that of the nvcc on the PATH; skips where there is none."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    nvcc = shutil.which("nvcc")
    homes += [str(Path(nvcc).resolve().parents[1])] if nvcc else []
    for home in [*homes, "/usr/local/cuda"]:
        if (Path(home) / "include/cuda_fp16.h").exists():
            return Path(home) / "include"
    pytest.skip("CUDA's headers are not to be found: name CUDA's folder with CUDA_HOME")


def compile_on_cpu(sources: list[Path], name: str, *, flags: Sequence[str] = ()) -> Path:
    """A shared library of CUDA C++ sources and the stand-in; AssertionError with the compiler's words.

    With the environment variable CUDA_ON_CPU_SANITIZE=address it is compiled with AddressSanitizer.
    """
    if os.environ.get("CUDA_ON_CPU_SANITIZE") == "address":
        flags = [*flags, *ADDRESS_SANITIZER]
    options = _options([flag for flag in flags if not flag.startswith("-I")])
    prefix = _precompiled(options)
    arguments = ["-c", "-include", str(prefix), *options]
    # The prefix's name has the digest of the options and of the stand-in's headers in it.
    common = digest(headers(), str(prefix), *flags)
    makers = [(source, [*arguments, *flags, "-x", "c++"], common) for source in sorted(sources)]
    makers += [(source, [*arguments, "-x", "c++"], str(prefix)) for source in sorted(STAND_IN.glob("*.cpp"))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda maker: _object(*maker), makers))
    script = STAND_IN / "shared_memory.ld"
    library = BUILT / f"lib{name}-{digest([script], *map(str, objects))}.so"
    return made(library, ["-shared", *flags, *map(str, objects), f"-Wl,-T,{script}", "-ldl", "-lpthread"])


def _options(flags: list[str]) -> list[str]:
    """What everything is compiled with, the precompiled header too."""
    include = cuda_include()
    # Older toolkits have no folder cccl: its headers lie beside the others.
    folders = [
        f"-I{STAND_IN}",
        f"-I{REPOSITORY}",
        "-isystem",
        str(include),
        "-isystem",
        str(include / "cccl"),
    ]
    return [*FLAGS, '-DTRTLLM_EXT_ARCHITECTURES="90a"', *folders, *flags]


def _precompiled(options: list[str]) -> Path:
    """What -include is to name: precompiled.h without its suffix .gch, as g++ looks for it."""
    source = STAND_IN / "precompiled.h"
    key = digest(sorted(STAND_IN.glob("*.h")), version_of(compiler()), *options)
    compiled = made(BUILT / f"precompiled-{key}.h.gch", [*options, "-x", "c++-header", str(source)])
    return compiled.with_suffix("")


def address_sanitizer() -> dict[str, str]:
    """The environment of a program that loads libraries compiled with AddressSanitizer, and compiles them so."""
    found = subprocess.run(
        [compiler(), "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    )
    # What Python itself keeps until its end is none of ours.
    options = "detect_leaks=0:detect_stack_use_after_return=0"
    variables = {"LD_PRELOAD": found.stdout.strip(), "ASAN_OPTIONS": options, "PYTHONMALLOC": "malloc"}
    return {**os.environ, **variables, "CUDA_ON_CPU_SANITIZE": "address"}


def headers() -> list[Path]:
    """All that sources include, sorted: any of them may be in any object."""
    found = [
        path
        for folder in (KERNELS, STAND_IN, CUBLASLT)
        for path in folder.rglob("*")
        if path.suffix in (".h", ".cuh")
    ]
    return sorted(found)


def digest(files: list[Path], *texts: str) -> str:
    sha = hashlib.sha256()
    for file in files:
        sha.update(str(file.relative_to(REPOSITORY)).encode() + b"\0" + file.read_bytes())
    for text in texts:
        sha.update(b"\0" + text.encode())
    return sha.hexdigest()[:16]


def _object(source: Path, arguments: list[str], common: str) -> Path:
    inside = source.is_relative_to(REPOSITORY)
    key = digest([source] if inside else [], common, "" if inside else source.read_text())
    # The suffix tells shared_memory.ld which ones have shared variables.
    suffix = ".cu.o" if source.suffix == ".cu" else ".o"
    return made(BUILT / f"{source.stem}-{key}{suffix}", [*arguments, str(source)])


def made(target: Path, arguments: list[str]) -> Path:
    """The target, made by the compiler unless it is there; of several processes the last one's stays."""
    if target.exists():
        target.touch()
        return target
    BUILT.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{os.getpid()}-{target.name}")
    run = subprocess.run([compiler(), *arguments, "-o", str(unfinished)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[:4000]
    unfinished.replace(target)
    for old in BUILT.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process has done it
            if old.is_file() and old.stat().st_mtime < time.time() - UNUSED_S:
                old.unlink()
    return target


@functools.cache
def version_of(program: str) -> str:
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
