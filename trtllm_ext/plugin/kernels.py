"""The CUDA kernels from Python, without a framework: pointers of any array, a stream, and errors that are sentences.

    kernels = load_kernels()
    kernels.residual_norm(x, residual=stream, weight=gamma, norm="rms_norm", sum=stream, normed=normed)

Everything given stays the caller's, on the device that is current, and must live until the stream has done its work.
"""

from __future__ import annotations

import ctypes
import json
import os
from ctypes import byref
from functools import cache
from pathlib import Path
from typing import Any

from trtllm_ext.errors import BackendError, ConfigError, InputError, KernelError
from trtllm_ext.plugin.c_interface import (
    KERNELS_ABI,
    Activation,
    GatedActivationArgs,
    Norm,
    ResidualNormArgs,
    Rounding,
    Status,
    Type,
    declare,
)
from trtllm_ext.plugin.matrices import matrix, row_pointer, rows_of
from trtllm_ext.suggest import nearest

VARIABLE = "TRTLLM_EXT_KERNELS"
# The library of plugins has the kernels inside.
_VARIABLES = (VARIABLE, "TRTLLM_EXT_PLUGINS")
_NAMES = ("libtrtllm_ext_kernels.so", "libtrtllm_ext_plugins.so")
_PACKAGE_DATA = Path(__file__).with_name("lib")


def load_kernels(path: str | os.PathLike[str] | None = None) -> Kernels:
    """The kernels of the library at `path`; by default of the package's own, else of TRTLLM_EXT_KERNELS.

    Loading needs no GPU: `Kernels.check_device` tells whether one is there. One object a file.
    Raises BackendError when there is no library, it cannot be loaded, or it has another version of the C interface.
    """
    return _load(os.fspath(Path(path if path is not None else find_library()).resolve()))


def find_library() -> Path:
    """Where the library is: package data, then TRTLLM_EXT_KERNELS, then TRTLLM_EXT_PLUGINS; BackendError if nowhere."""
    for name in _NAMES:
        if (_PACKAGE_DATA / name).is_file():
            return _PACKAGE_DATA / name
    for variable in _VARIABLES:
        if named := os.environ.get(variable):
            return Path(named)
    raise BackendError(
        f"the CUDA kernels are not built: neither {_PACKAGE_DATA} has {' or '.join(_NAMES)}, nor does {VARIABLE} "
        "name one. Build them with `make plugins` (nvcc and CMake)."
    )


@cache
def _load(path: str) -> Kernels:
    return Kernels(path)


class Kernels:
    """One loaded library. path: of its file; info: what it was built of, as `trtllm_ext_kernels_info` has it."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self.library = ctypes.CDLL(path)
        except OSError as problem:
            raise BackendError(f"{path} cannot be loaded as the library of kernels: {problem}") from problem
        try:
            declare(self.library)
        except AttributeError as problem:
            raise BackendError(
                f"{path} is not the library of this version's kernels: {problem}. Build it again with `make plugins`."
            ) from problem
        abi = self.library.trtllm_ext_kernels_abi()
        if abi != KERNELS_ABI:
            raise BackendError(
                f"{path} has version {abi} of the kernels' C interface; this trtllm_ext needs {KERNELS_ABI}. "
                "Build it again with `make plugins`."
            )
        self.info: dict[str, Any] = json.loads(self.library.trtllm_ext_kernels_info())

    def check_device(self) -> None:
        """Raise KernelError unless the library has code for the current device."""
        self.check(self.library.trtllm_ext_device_status())

    def set_dependent_launch(self, enabled: bool) -> None:
        """Whether kernels begin while the one before them ends, for the whole process; off at first. See the header."""
        self.library.trtllm_ext_set_dependent_launch(int(enabled))

    def check(self, status: int) -> None:
        """Raise KernelError, with the library's sentence, for any status but SUCCESS."""
        if status != Status.SUCCESS:
            text = self.library.trtllm_ext_last_error().decode()
            raise KernelError(text or f"the kernels report {status_name(status)}.", status_name(status))

    def residual_norm(
        self,
        x: Any,
        *,
        residual: Any = None,
        bias: Any = None,
        weight: Any = None,
        norm_bias: Any = None,
        norm: str | Norm,
        eps: float = 1e-5,
        weight_offset: float = 0.0,
        rounding: str | Rounding = "after_weight",
        sum: Any = None,
        normed: Any = None,
        quantized: Any = None,
        scales: Any = None,
        stream: Any = None,
    ) -> None:
        """sum = x + bias + residual; normed = norm(sum) * (weight + weight_offset) + norm_bias; see the header.

        x, residual, sum, normed: (tokens, hidden); bias, weight, norm_bias: (hidden); all of one type. quantized:
        (tokens, hidden) int8 or float8_e4m3fn with scales (tokens) float32. norm: 'no_norm', 'layer_norm' or
        'rms_norm'. Outputs that are None are not written. stream: a cudaStream_t, an object with
        `cuda_stream`, or None.
        Raises InputError for arguments that do not fit each other, KernelError for what the library refuses.
        """
        view = matrix(x, "x")
        given = {
            "residual": residual,
            "sum": sum,
            "normed": normed,
        }
        views = {name: rows_of(value, name, view) for name, value in given.items() if value is not None}
        kind = Type.NO_TYPE
        if quantized is not None:
            kind = matrix(quantized, "quantized").type
            views["quantized"] = rows_of(quantized, "quantized", view, kind=kind)
        args = ResidualNormArgs(
            size=ctypes.sizeof(ResidualNormArgs),
            type=view.type,
            norm=member(Norm, norm),
            rounding=member(Rounding, rounding),
            quantized_type=kind,
            eps=eps,
            weight_offset=weight_offset,
            num_tokens=view.rows,
            hidden_size=view.width,
            x=view.pointer,
            bias=row_pointer(bias, "bias", view),
            weight=row_pointer(weight, "weight", view),
            norm_bias=row_pointer(norm_bias, "norm_bias", view),
            scales=_scales(scales, view),
            x_stride=view.stride,
        )
        for name, output in views.items():
            setattr(args, name, output.pointer)
            setattr(args, f"{name}_stride", output.stride)
        self.check(self.library.trtllm_ext_residual_norm(byref(args), stream_of(stream)))

    def gated_activation(
        self,
        fc: Any,
        output: Any,
        *,
        gate: Any = None,
        fc_bias: Any = None,
        gate_bias: Any = None,
        activation: str | Activation,
        clamp: float = 0.0,
        gate_offset: float = 0.0,
        stream: Any = None,
    ) -> None:
        """output = act(fc + fc_bias), times gate + gate_bias + gate_offset where there is a gate; see the header.

        fc, gate, output: (tokens, width); biases: (width); all of one type. activation: a name of
        `checkpoint.ACTIVATIONS`. clamp: 0 for none. What is raised: as `residual_norm`.
        """
        view = matrix(fc, "fc")
        out = rows_of(output, "output", view)
        args = GatedActivationArgs(
            size=ctypes.sizeof(GatedActivationArgs),
            type=view.type,
            activation=member(Activation, activation),
            clamp=clamp,
            gate_offset=gate_offset,
            num_tokens=view.rows,
            width=view.width,
            fc=view.pointer,
            fc_bias=row_pointer(fc_bias, "fc_bias", view),
            gate_bias=row_pointer(gate_bias, "gate_bias", view),
            output=out.pointer,
            fc_stride=view.stride,
            output_stride=out.stride,
        )
        if gate is not None:
            gate_view = rows_of(gate, "gate", view)
            args.gate, args.gate_stride = gate_view.pointer, gate_view.stride
        self.check(self.library.trtllm_ext_gated_activation(byref(args), stream_of(stream)))


def status_name(status: int) -> str:
    """The name of a status, of a newer library's too."""
    return Status(status).name if status in Status.__members__.values() else f"status {status}"


def member(kind: Any, name: Any) -> int:
    """The number of a name in any case, or of a member, of an enumeration of `c_interface`. Raises ConfigError."""
    if isinstance(name, kind):
        return int(name)
    found = kind.__members__.get(str(name).upper())
    if found is None:
        known = [each.lower() for each in kind.__members__]
        raise ConfigError(f"{kind.__name__.lower()} {name!r} is not known. {nearest(name, known)}")
    return int(found)


def stream_of(stream: Any) -> int | None:
    """A cudaStream_t as a number: of None the default stream, of objects their `cuda_stream`."""
    stream = getattr(stream, "cuda_stream", stream)
    return int(stream) if stream is not None else None


def _scales(scales: Any, like: Any) -> int | None:
    if scales is None:
        return None
    found = matrix(scales, "scales")
    if found.type != Type.FLOAT32 or found.rows * found.width != like.rows or found.stride != found.width:
        raise InputError(
            f"scales is {found.type.name.lower()} ({found.rows}, {found.width}); expected float32 ({like.rows},), "
            "without gaps."
        )
    return found.pointer
