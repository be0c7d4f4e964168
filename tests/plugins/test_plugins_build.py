"""nvcc compiles the kernels, and CMake makes of them and of the TensorRT adapters what `make plugins` promises."""

import ctypes
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from cpu_library import KERNELS, REPOSITORY
from player_build import RELEASES, headers_of

from trtllm_ext.plugin.kernels import load_kernels
from trtllm_ext.runtime import own_plugins

BUDGET_S = 13

PLUGINS = REPOSITORY / "plugins"


@pytest.fixture(scope="module")
def nvcc():
    found = shutil.which("nvcc")
    if found is None:
        pytest.skip("no nvcc on the PATH: the kernels cannot be compiled for a GPU")
    return found


@pytest.fixture(scope="module")
def configure(nvcc):
    """configure(build, NAME=value, ...) -> what CMake said, stderr included; and whether it succeeded."""
    if shutil.which("cmake") is None:
        pytest.skip("no cmake on the PATH")

    def run(build, **variables):
        given = [f"-D{name}={value}" for name, value in variables.items()]
        environment = {name: value for name, value in os.environ.items() if name != "TENSORRT_ROOT"}
        command = ["cmake", "-S", str(PLUGINS), "-B", str(build), *given]
        said = subprocess.run(command, env=environment, capture_output=True, text=True)
        return " ".join((said.stdout + said.stderr).split()), said.returncode == 0

    return run


def test_nvcc_compiles_every_kernel(nvcc, tmp_path):
    """To PTX without optimisation, for compute capability 9.0: what is compiled for all, and assembled, takes long."""

    def compiled(source):
        target = tmp_path / f"{source.stem}.ptx"
        options = ["-std=c++17", f"-I{REPOSITORY}", '-DTRTLLM_EXT_ARCHITECTURES="90a"', "-Xcicc=-O0"]
        options += ["-Werror=all-warnings", "-arch=compute_90a", "-ptx"]
        ran = subprocess.run([nvcc, *options, str(source), "-o", str(target)], capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr[:4000]
        return target.read_text()

    sources = sorted(KERNELS.glob("*.cu"))
    assert {source.stem for source in sources} >= {"residual_norm", "gated_activation"}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for ptx in pool.map(compiled, sources):
            assert ".target sm_90a" in ptx and ".entry" in ptx


@pytest.mark.long
def test_cmake_builds_the_kernels_alone_and_says_so(configure, tmp_path):
    # A folder of the system may have TensorRT's headers: then there is more to build.
    said, succeeded = configure(
        tmp_path, TRTLLM_EXT_ARCHITECTURES="90a;80;120;89", CMAKE_EXPORT_COMPILE_COMMANDS="ON"
    )
    assert succeeded, said
    assert "the kernels are built alone" in said or "TensorRT's headers: /usr" in said
    commands = (tmp_path / "compile_commands.json").read_text()
    sources = [path.name for path in PLUGINS.glob("kernels/*.c*")]
    assert not [name for name in sources if f"kernels/{name}.o" not in commands]
    codes = ("code=[sm_80]", "code=[sm_89]", "code=[sm_90a]", "code=[sm_120]", "code=[compute_120]")
    assert all(code in commands for code in codes)
    assert commands.count("code=[compute_") == commands.count("code=[sm_120]"), "PTX of the newest alone"


@pytest.mark.long
def test_a_wrong_tensorrt_root_is_refused(configure, tmp_path):
    said, succeeded = configure(tmp_path / "build", TENSORRT_ROOT=tmp_path)
    assert not succeeded
    assert f"TENSORRT_ROOT={tmp_path} has no include/NvInfer.h: name the folder" in said


def test_a_build_that_fails_leaves_no_earlier_library(tmp_path):
    """It may be of another TensorRT."""
    if shutil.which("make") is None:
        pytest.skip("no make on the PATH")
    library = tmp_path / "trtllm_ext/plugin/lib/libtrtllm_ext_plugins.so"
    library.parent.mkdir(parents=True)
    library.touch()
    cmake = tmp_path / "bin/cmake"
    cmake.parent.mkdir()
    cmake.write_text("#!/bin/sh\nexit 1\n")
    cmake.chmod(0o755)
    environment = os.environ | {"PATH": f"{cmake.parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["make", "-f", REPOSITORY / "Makefile", "plugins", "TENSORRT_ROOT=/nowhere"]
    assert subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True).returncode != 0
    assert not library.exists()


def built(configure, build, target, **variables):
    said, succeeded = configure(build, **variables)
    assert succeeded, said
    command = ["cmake", "--build", str(build), "--target", target, "--parallel", str(os.cpu_count())]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-4000:]
    assert "warning" not in ran.stdout + ran.stderr, ran.stdout[-4000:] + ran.stderr[-4000:]
    return build / f"lib{target}.so"


def exported(library):
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True
    )
    return {line.split()[-1] for line in listed.stdout.splitlines()}


def own(names):
    return {name for name in names if name.startswith("trtllm_ext_")}


@pytest.mark.long
def test_kernels_for_four_architectures(configure, kernels_on_cpu, tmp_path):
    library = built(configure, tmp_path, "trtllm_ext_kernels")
    assert exported(library) == own(exported(kernels_on_cpu))
    kernels = load_kernels(library)
    assert kernels.info["architectures"] == "80,89,90a,100"
    assert kernels.info["cuda"].split(".")[0].isdigit()
    needed = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    assert not [word for word in ("libcuda", "libcublas", "libnvinfer") if word in needed]


@pytest.mark.long
@pytest.mark.parametrize("release", RELEASES)
def test_plugins_for_a_release_of_tensorrt(configure, tmp_path_factory, release):
    root = headers_of(release).parent
    # One folder for all: their kernels are the same.
    build = tmp_path_factory.getbasetemp() / "plugins_of_releases"
    library = built(
        configure, build, "trtllm_ext_plugins", TRTLLM_EXT_ARCHITECTURES="90a", TENSORRT_ROOT=root
    )
    names = exported(library)
    creators = "getPluginCreators" if release.startswith("v8") else "getCreators"
    assert names - own(names) == {creators, "initTrtllmExtPlugins", "setLoggerFinder"}
    info = own_plugins.read_info(library)
    assert f"v{info.tensorrt}".startswith(release) and info.architectures == "90a"
    assert {plugin[0] for plugin in info.plugins} == {"FeedForward", "GatedActivation", "ResidualNorm"}
    # It finds TensorRT in the process that loads it, or says that there is none.
    assert ctypes.CDLL(str(library)).trtllm_ext_kernels_abi() == info.kernels_abi
