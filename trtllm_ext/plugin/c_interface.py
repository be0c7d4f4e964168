"""trtllm_ext_kernels.h for ctypes: its structures, enumerations and functions, each mirrored once.

The tests compare sizes, offsets and numbers with what a C compiler makes of the header.
"""

from __future__ import annotations

import ctypes
import enum
from ctypes import POINTER, c_char_p, c_float, c_int32, c_int64, c_uint32, c_uint64, c_void_p

# TRTLLM_EXT_KERNELS_ABI of the header that this file mirrors.
KERNELS_ABI = 1


class Status(enum.IntEnum):
    """trtllm_ext_status."""

    SUCCESS = 0
    INVALID_ARGUMENT = 1
    UNSUPPORTED_TYPE = 2
    UNSUPPORTED_DEVICE = 3
    TOO_MANY_TOKENS = 4
    WORKSPACE_TOO_SMALL = 5
    LIBRARY_MISSING = 6
    OUT_OF_MEMORY = 7
    CUDA_FAILURE = 8
    CUBLAS_FAILURE = 9


class Type(enum.IntEnum):
    """trtllm_ext_type."""

    NO_TYPE = 0
    FLOAT32 = 1
    FLOAT16 = 2
    BFLOAT16 = 3
    INT8 = 4
    FLOAT8_E4M3 = 5


class Activation(enum.IntEnum):
    """trtllm_ext_activation: the names of `checkpoint.ACTIVATIONS`, in capitals."""

    IDENTITY = 0
    RELU = 1
    GELU_ERF = 2
    GELU_TANH = 3
    QUICK_GELU = 4
    SILU = 5
    SQUARED_RELU = 6
    SIGMOID = 7
    TANH = 8


class Norm(enum.IntEnum):
    """trtllm_ext_norm."""

    NO_NORM = 0
    LAYER_NORM = 1
    RMS_NORM = 2


class Rounding(enum.IntEnum):
    """trtllm_ext_rounding."""

    AFTER_WEIGHT = 0
    BEFORE_WEIGHT = 1


class ResidualNormArgs(ctypes.Structure):
    """trtllm_ext_residual_norm_args."""

    _fields_ = (
        ("size", c_uint32),
        ("type", c_int32),
        ("norm", c_int32),
        ("rounding", c_int32),
        ("quantized_type", c_int32),
        ("eps", c_float),
        ("weight_offset", c_float),
        ("reserved", c_int32),
        ("num_tokens", c_int64),
        ("hidden_size", c_int64),
        ("x", c_void_p),
        ("residual", c_void_p),
        ("bias", c_void_p),
        ("weight", c_void_p),
        ("norm_bias", c_void_p),
        ("sum", c_void_p),
        ("normed", c_void_p),
        ("quantized", c_void_p),
        ("scales", c_void_p),
        ("x_stride", c_int64),
        ("residual_stride", c_int64),
        ("sum_stride", c_int64),
        ("normed_stride", c_int64),
        ("quantized_stride", c_int64),
    )


class GatedActivationArgs(ctypes.Structure):
    """trtllm_ext_gated_activation_args."""

    _fields_ = (
        ("size", c_uint32),
        ("type", c_int32),
        ("activation", c_int32),
        ("clamp", c_float),
        ("gate_offset", c_float),
        ("reserved", c_int32),
        ("num_tokens", c_int64),
        ("width", c_int64),
        ("fc", c_void_p),
        ("gate", c_void_p),
        ("fc_bias", c_void_p),
        ("gate_bias", c_void_p),
        ("output", c_void_p),
        ("fc_stride", c_int64),
        ("gate_stride", c_int64),
        ("output_stride", c_int64),
    )


class FeedForwardFormStruct(ctypes.Structure):
    """trtllm_ext_feed_forward_form."""

    _fields_ = (
        ("size", c_uint32),
        ("type", c_int32),
        ("activation", c_int32),
        ("gated", c_int32),
        ("has_fc_bias", c_int32),
        ("has_gate_bias", c_int32),
        ("has_proj_bias", c_int32),
        ("has_residual", c_int32),
        ("tf32", c_int32),
        ("clamp", c_float),
        ("gate_offset", c_float),
        ("reserved", c_int32),
        ("hidden_size", c_int64),
        ("ffn_hidden_size", c_int64),
        ("max_num_tokens", c_int64),
    )


class FeedForwardArgs(ctypes.Structure):
    """trtllm_ext_feed_forward_args."""

    _fields_ = (
        ("size", c_uint32),
        ("reserved", c_int32),
        ("num_tokens", c_int64),
        ("x", c_void_p),
        ("fc_weight", c_void_p),
        ("gate_weight", c_void_p),
        ("proj_weight", c_void_p),
        ("fc_bias", c_void_p),
        ("gate_bias", c_void_p),
        ("proj_bias", c_void_p),
        ("residual", c_void_p),
        ("y", c_void_p),
        ("x_stride", c_int64),
        ("residual_stride", c_int64),
        ("y_stride", c_int64),
        ("workspace", c_void_p),
        ("workspace_size", c_uint64),
    )


_PLAN = c_void_p

# Name without the prefix trtllm_ext_: what it returns, what it takes.
FUNCTIONS: dict[str, tuple[object, tuple[object, ...]]] = {
    "kernels_abi": (c_int32, ()),
    "kernels_info": (c_char_p, ()),
    "status_name": (c_char_p, (c_int32,)),
    "last_error": (c_char_p, ()),
    "device_status": (c_int32, ()),
    "set_dependent_launch": (None, (c_int32,)),
    "residual_norm": (c_int32, (POINTER(ResidualNormArgs), c_void_p)),
    "gated_activation": (c_int32, (POINTER(GatedActivationArgs), c_void_p)),
    "feed_forward_create": (c_int32, (POINTER(FeedForwardFormStruct), POINTER(_PLAN))),
    "feed_forward_destroy": (None, (_PLAN,)),
    "feed_forward_workspace": (c_uint64, (_PLAN, c_int64)),
    "feed_forward_tune": (c_int32, (_PLAN, POINTER(FeedForwardArgs), c_void_p)),
    "feed_forward_bucket": (c_int64, (_PLAN, c_int64)),
    "feed_forward_choices": (c_int32, (_PLAN, c_void_p, POINTER(c_uint64))),
    "feed_forward_take_choices": (c_int32, (_PLAN, c_void_p, c_uint64, POINTER(c_int32))),
    "feed_forward_describe": (c_int32, (_PLAN, c_int64, c_char_p, c_uint64)),
    "feed_forward": (c_int32, (_PLAN, POINTER(FeedForwardArgs), c_void_p)),
}


def declare(library: ctypes.CDLL) -> None:
    """Tell ctypes what each function takes and returns. Raises AttributeError when the library lacks one."""
    for name, (result, arguments) in FUNCTIONS.items():
        function = getattr(library, f"trtllm_ext_{name}")
        function.restype, function.argtypes = result, arguments
