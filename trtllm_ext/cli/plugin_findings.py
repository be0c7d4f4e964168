"""What `trtllm-ext doctor` finds of compiled plugins and kernels."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtllm_ext import backend
from trtllm_ext.cli.finding import Finding
from trtllm_ext.errors import BackendError

if TYPE_CHECKING:
    from trtllm_ext.runtime.own_plugins import PluginLibraryInfo


def plugin_findings() -> Iterator[Finding]:
    """This package's compiled plugins, for TensorRT, and its kernels, for PyTorch: whether there are any."""
    from trtllm_ext.plugin.kernels import find_library as find_kernels
    from trtllm_ext.runtime import own_plugins

    needed = "problem" if _uses_tensorrt() else "absent"
    try:
        path = own_plugins.find_library()
        if path is None:
            without = "none is built; networks are made of TensorRT's own layers"
            yield Finding("absent", "plugins", without, f"{own_plugins.BUILDING}; docs/plugins.md")
        else:
            yield _fitting(own_plugins.read_info(path))
    except BackendError as error:
        yield Finding(needed, "plugins", str(error), f"unset {own_plugins.VARIABLE}, or as said")
    try:
        yield Finding("ok", "kernels", str(find_kernels()))
    except BackendError:
        fix = "`make plugins`, with nvcc and CMake; TensorRT is not needed"
        yield Finding("absent", "kernels", "for PyTorch, through torch.ops.trtllm_ext: none are built", fix)


def _fitting(info: "PluginLibraryInfo") -> Finding:
    """The finding on a library of plugins that is there: whether it is for the TensorRT in use."""
    from trtllm_ext.runtime.own_plugins import version_problem

    if not _uses_tensorrt():
        return Finding("ok", "plugins", f"{info}; not in use: the embedded engine has its own")
    problem = version_problem(info, str(backend.tensorrt().__version__))
    return (
        Finding("problem", "plugins", problem, "make plugins")
        if problem
        else Finding("ok", "plugins", str(info))
    )


def _uses_tensorrt() -> bool:
    try:
        return backend.choice().engine == "tensorrt"
    except BackendError:  # told as a problem of the engine
        return False
