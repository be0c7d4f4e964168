"""What `trtllm-ext doctor` finds of compiled plugins and kernels."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_ext import backend
from trtllm_ext.cli.finding import Finding
from trtllm_ext.errors import BackendError

if TYPE_CHECKING:
    from trtllm_ext.runtime.own_plugins import PluginLibraryInfo


def plugin_findings() -> Iterator[Finding]:
    """This package's compiled plugins, for TensorRT, and its kernels, for PyTorch: whether there are any."""
    from trtllm_ext.runtime import own_plugins

    needed = "problem" if _uses_tensorrt() else "absent"
    try:
        path = own_plugins.find_library()
        if path is None:
            without = "none is built; networks are made of TensorRT's own layers"
            yield Finding("absent", "plugins", without, f"{own_plugins.BUILDING}; docs/plugins.md")
        else:
            yield _fitting(own_plugins.read_info(path), _passed_over(own_plugins.VARIABLE, path))
    except BackendError as error:
        yield Finding(needed, "plugins", str(error), f"unset {own_plugins.VARIABLE}, or as said")
    yield _kernels()


def _kernels() -> Finding:
    from trtllm_ext.plugin.kernels import VARIABLE, find_library

    fix = "`make plugins`, with nvcc and CMake; TensorRT is not needed"
    try:
        path = find_library()
    except BackendError:
        return Finding("absent", "kernels", "for PyTorch, through torch.ops.trtllm_ext: none are built", fix)
    if not path.is_file():  # then a variable names it: the package's own are looked at first
        return Finding("absent", "kernels", f"{path}, which the environment names, is not there", fix)
    return Finding("ok", "kernels", f"{path}{_passed_over(VARIABLE, path)}")


def _passed_over(variable: str, path: Path) -> str:
    """That a variable names another library than the one at `path`, which comes first; or nothing."""
    named = os.environ.get(variable)
    if not named or Path(named).resolve() == path.resolve():
        return ""
    return f"; {variable}={named} is not used: the package's own comes first"


def _fitting(info: "PluginLibraryInfo", note: str) -> Finding:
    """The finding on a library of plugins that is there: whether it is for the TensorRT in use. note: to be added."""
    from trtllm_ext.runtime.own_plugins import version_problem

    if not _uses_tensorrt():
        return Finding("ok", "plugins", f"{info}; not in use: the embedded engine has its own{note}")
    problem = version_problem(info, str(backend.tensorrt().__version__))
    return (
        Finding("problem", "plugins", problem, "make plugins")
        if problem
        else Finding("ok", "plugins", f"{info}{note}")
    )


def _uses_tensorrt() -> bool:
    try:
        return backend.choice().engine == "tensorrt"
    except BackendError:  # told as a problem of the engine
        return False
