"""Calls that cannot be meant, straight through the C interface: each is a status with a sentence, and nothing else."""

import ctypes
import json
from ctypes import byref

import torch

from trtllm_ext.plugin.c_interface import (
    FeedForwardArgs,
    FeedForwardFormStruct,
    GatedActivationArgs,
    ResidualNormArgs,
    Status,
)

_NORM = {
    "type": 3,
    "norm": 2,
    "eps": 1e-5,
    "num_tokens": 4,
    "hidden_size": 16,
    "x_stride": 16,
    "sum_stride": 16,
}
_GATED = {"type": 3, "activation": 5, "num_tokens": 4, "width": 16, "fc_stride": 16, "output_stride": 16}
_FORM = {"type": 3, "activation": 1, "hidden_size": 16, "ffn_hidden_size": 32, "max_num_tokens": 8}
_RUN = {"num_tokens": 4, "x_stride": 16, "y_stride": 16}
_INVALID, _TYPE = Status.INVALID_ARGUMENT, Status.UNSUPPORTED_TYPE

# Function, what is changed of a call that is right, and what it reports. 'odd' is an address of no element's alignment.
REFUSALS = [
    ("residual_norm", {"size": 0}, _INVALID),
    ("residual_norm", {"type": 99}, _TYPE),
    ("residual_norm", {"type": 4}, _TYPE),
    ("residual_norm", {"norm": 9}, _INVALID),
    ("residual_norm", {"rounding": 9}, _INVALID),
    ("residual_norm", {"eps": 0.0}, _INVALID),
    ("residual_norm", {"eps": float("nan")}, _INVALID),
    ("residual_norm", {"num_tokens": -1}, _INVALID),
    ("residual_norm", {"hidden_size": 0}, _INVALID),
    ("residual_norm", {"hidden_size": -16}, _INVALID),
    ("residual_norm", {"x_stride": 15}, _INVALID),
    ("residual_norm", {"sum_stride": 15}, _INVALID),
    ("residual_norm", {"x": None}, _INVALID),
    ("residual_norm", {"x": "odd"}, _INVALID),
    ("residual_norm", {"sum": "odd"}, _INVALID),
    ("residual_norm", {"quantized_type": 4}, _INVALID),
    ("residual_norm", {"quantized_type": 2}, _TYPE),
    ("gated_activation", {"size": 0}, _INVALID),
    ("gated_activation", {"type": 0}, _TYPE),
    ("gated_activation", {"activation": 9}, _INVALID),
    ("gated_activation", {"activation": -1}, _INVALID),
    ("gated_activation", {"clamp": -1.0}, _INVALID),
    ("gated_activation", {"num_tokens": -1}, _INVALID),
    ("gated_activation", {"width": 0}, _INVALID),
    ("gated_activation", {"fc_stride": 15}, _INVALID),
    ("gated_activation", {"fc": None}, _INVALID),
    ("gated_activation", {"output": None}, _INVALID),
    ("gated_activation", {"output": "odd"}, _INVALID),
    ("create", {"size": 0}, _INVALID),
    ("create", {"type": 4}, _TYPE),
    ("create", {"activation": 77}, _INVALID),
    ("create", {"gated": 2}, _INVALID),
    ("create", {"hidden_size": 0}, _INVALID),
    ("create", {"ffn_hidden_size": -1}, _INVALID),
    ("create", {"max_num_tokens": -1}, _INVALID),
    ("feed_forward", {"size": 0}, _INVALID),
    ("feed_forward", {"num_tokens": -1}, _INVALID),
    ("feed_forward", {"num_tokens": 9}, Status.TOO_MANY_TOKENS),
    ("feed_forward", {"x": None}, _INVALID),
    ("feed_forward", {"fc_weight": None}, _INVALID),
    ("feed_forward", {"y": "odd"}, _INVALID),
    ("feed_forward", {"x_stride": 15}, _INVALID),
    ("feed_forward", {"workspace": None}, _INVALID),
    ("feed_forward", {"workspace_size": 1}, Status.WORKSPACE_TOO_SMALL),
]


def refusal_id(refusal):
    """Such as 'residual_norm-eps=0.0-INVALID_ARGUMENT'."""
    function, changes, status = refusal
    return "-".join([function, *(f"{name}={value}" for name, value in changes.items()), status.name])


def check_refused(lab, refusal) -> None:
    """The call reports its status with a sentence and writes nothing."""
    function, changes, wanted = refusal
    memory = {
        name: torch.zeros(1 << 14, dtype=torch.uint8, device=lab.device) for name in _POINTERS[function]
    }
    status = _CALLS[function](lab, memory, changes)
    assert Status(status) == wanted, lab.kernels.library.trtllm_ext_last_error().decode()
    assert lab.kernels.library.trtllm_ext_last_error().decode().strip()
    assert not any(bool(each.any()) for each in memory.values())


def check_dry_run(lab) -> None:
    """No tokens are no work, whatever the pointers are."""
    given = {"residual_norm": (ResidualNormArgs, _NORM), "gated_activation": (GatedActivationArgs, _GATED)}
    for function, (structure, right) in given.items():
        args = structure(size=ctypes.sizeof(structure), **right | {"num_tokens": 0})
        lab.kernels.check(getattr(lab.kernels.library, f"trtllm_ext_{function}")(byref(args), _stream(lab)))


def _norm(lab, memory, changes):
    args = _filled(ResidualNormArgs, _NORM, memory, changes)
    return lab.kernels.library.trtllm_ext_residual_norm(byref(args), _stream(lab))


def _gated(lab, memory, changes):
    args = _filled(GatedActivationArgs, _GATED, memory, changes)
    return lab.kernels.library.trtllm_ext_gated_activation(byref(args), _stream(lab))


def _create(lab, memory, changes):
    plan = ctypes.c_void_p()
    form = _filled(FeedForwardFormStruct, _FORM, memory, changes)
    status = lab.kernels.library.trtllm_ext_feed_forward_create(byref(form), byref(plan))
    assert not plan.value
    return status


def _run(lab, memory, changes):
    library, plan = lab.kernels.library, ctypes.c_void_p()
    form = _filled(FeedForwardFormStruct, _FORM, {}, {})
    lab.kernels.check(library.trtllm_ext_feed_forward_create(byref(form), byref(plan)))
    try:
        text = ctypes.create_string_buffer(4096)
        lab.kernels.check(library.trtllm_ext_feed_forward_describe(plan, 4, text, len(text)))
        assert json.loads(text.value)
        size = memory["workspace"].numel()
        args = _filled(FeedForwardArgs, _RUN | {"workspace_size": size}, memory, changes)
        return library.trtllm_ext_feed_forward(plan, byref(args), _stream(lab))
    finally:
        library.trtllm_ext_feed_forward_destroy(plan)


_CALLS = {"residual_norm": _norm, "gated_activation": _gated, "create": _create, "feed_forward": _run}
_POINTERS = {
    "residual_norm": ("x", "sum"),
    "gated_activation": ("fc", "output"),
    "create": (),
    "feed_forward": ("x", "fc_weight", "proj_weight", "y", "workspace"),
}


def _filled(structure, right, memory, changes):
    """The structure of a call that is right, with the changes."""
    fields = {"size": ctypes.sizeof(structure)} | right
    fields |= {name: _aligned(each) for name, each in memory.items()}
    for name, value in changes.items():
        fields[name] = fields[name] + 1 if value == "odd" else value
    return structure(**fields)


def _aligned(memory):
    return memory.data_ptr() + -memory.data_ptr() % 256


def _stream(lab):
    return getattr(lab.stream, "cuda_stream", None)
