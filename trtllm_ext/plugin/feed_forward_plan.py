"""The feed-forward sublayer on the GPU: a plan holds what is chosen once for a form and a device."""

from __future__ import annotations

import ctypes
import json
import math
from ctypes import byref, c_int32, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Any

from trtllm_ext.errors import InputError, TrtllmExtError
from trtllm_ext.plugin.c_interface import Activation, FeedForwardArgs, FeedForwardFormStruct
from trtllm_ext.plugin.kernels import Kernels, member, stream_of
from trtllm_ext.plugin.matrices import Matrix, matrix, row_pointer, rows_of, type_of

_LARGEST_DESCRIPTION = 1 << 16


@dataclass(frozen=True, kw_only=True)
class FeedForwardForm:
    """What a plan is for: y = act(x fc^T + fc_bias) [* (x gate^T + gate_bias)] proj^T + proj_bias + residual.

    dtype: 'float32', 'float16' or 'bfloat16', of everything. activation: a name of `checkpoint.ACTIVATIONS`.
    max_num_tokens: runs of more are refused. clamp: 0 for none.
    """

    hidden_size: int
    ffn_hidden_size: int
    max_num_tokens: int
    dtype: str
    activation: str
    gated: bool = False
    has_fc_bias: bool = False
    has_gate_bias: bool = False
    has_proj_bias: bool = False
    has_residual: bool = False
    tf32: bool = False
    clamp: float = 0.0
    gate_offset: float = 0.0

    def as_struct(self) -> FeedForwardFormStruct:
        """The C interface's form. Raises ConfigError for an unknown activation, InputError for an unknown type."""
        return FeedForwardFormStruct(
            size=ctypes.sizeof(FeedForwardFormStruct),
            type=type_of(self.dtype),
            activation=member(Activation, self.activation),
            gated=self.gated,
            has_fc_bias=self.has_fc_bias,
            has_gate_bias=self.has_gate_bias,
            has_proj_bias=self.has_proj_bias,
            has_residual=self.has_residual,
            tf32=self.tf32,
            clamp=self.clamp,
            gate_offset=self.gate_offset,
            hidden_size=self.hidden_size,
            ffn_hidden_size=self.ffn_hidden_size,
            max_num_tokens=self.max_num_tokens,
        )


class FeedForwardPlan:
    """A plan, from `with` on or from its creation, until `close`; for the device that is current when it is made.

    Any number of threads may `run` one plan, each with a workspace of its own; `tune` is for one thread.
    Raises KernelError for a form that the kernels do not have.
    """

    def __init__(self, kernels: Kernels, form: FeedForwardForm) -> None:
        self.kernels, self.form = kernels, form
        self._library = kernels.library
        plan = c_void_p()
        kernels.check(self._library.trtllm_ext_feed_forward_create(byref(form.as_struct()), byref(plan)))
        self._plan: c_void_p | None = plan

    def __enter__(self) -> FeedForwardPlan:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_plan", None) is not None:
            self.close()

    def close(self) -> None:
        """Give the plan back; a second time does nothing."""
        plan, self._plan = self._plan, None
        if plan is not None:
            self._library.trtllm_ext_feed_forward_destroy(plan)

    def workspace_size(self, num_tokens: int | None = None) -> int:
        """Bytes of workspace that a run of at most this many tokens (by default the form's limit) needs."""
        most = self.form.max_num_tokens if num_tokens is None else num_tokens
        return int(self._library.trtllm_ext_feed_forward_workspace(self._open(), most))

    def bucket(self, num_tokens: int) -> int:
        """The largest token count that is computed as this one is."""
        return int(self._library.trtllm_ext_feed_forward_bucket(self._open(), num_tokens))

    def describe(self, num_tokens: int) -> dict[str, Any]:
        """How a run of this many tokens is computed."""
        text = ctypes.create_string_buffer(_LARGEST_DESCRIPTION)
        status = self._library.trtllm_ext_feed_forward_describe(self._open(), num_tokens, text, len(text))
        self.kernels.check(status)
        described: dict[str, Any] = json.loads(text.value)
        return described

    def choices(self) -> bytes:
        """What tuning chose, to be kept and given to `take_choices` of a plan of the same form and device."""
        size = c_uint64()
        choices = self._library.trtllm_ext_feed_forward_choices
        self.kernels.check(choices(self._open(), None, byref(size)))
        buffer = ctypes.create_string_buffer(max(size.value, 1))
        self.kernels.check(choices(self._open(), buffer, byref(size)))
        return buffer.raw[: size.value]

    def take_choices(self, choices: bytes) -> int:
        """Take what `choices` returned; how many were taken: 0 where they are another form's or device's.

        Raises KernelError when the bytes are damaged.
        """
        taken = c_int32()
        take = self._library.trtllm_ext_feed_forward_take_choices
        self.kernels.check(take(self._open(), choices, len(choices), byref(taken)))
        return taken.value

    def tune(self, x: Any, y: Any, *, stream: Any = None, **tensors: Any) -> None:
        """Time the algorithms on these arguments, those of `run`, and keep the fastest for x's bucket; waits."""
        args = self._args(x, y, **tensors)
        self.kernels.check(
            self._library.trtllm_ext_feed_forward_tune(self._open(), byref(args), stream_of(stream))
        )

    def run(self, x: Any, y: Any, *, stream: Any = None, **tensors: Any) -> None:
        """Write y (tokens, hidden), which may be the residual's memory, on a stream.

        tensors: fc_weight (ffn, hidden), proj_weight (hidden, ffn), workspace (anything with a pointer, of at least
        `workspace_size` bytes, 256-byte aligned), and as the form says gate_weight (ffn, hidden), fc_bias and gate_bias
        (ffn), proj_bias (hidden), residual (tokens, hidden).
        Raises InputError for arguments that do not fit, KernelError for what the library refuses.
        """
        args = self._args(x, y, **tensors)
        self.kernels.check(
            self._library.trtllm_ext_feed_forward(self._open(), byref(args), stream_of(stream))
        )

    def _open(self) -> c_void_p:
        if self._plan is None:
            raise TrtllmExtError("this feed-forward plan is closed; make another one.")
        return self._plan

    def _args(
        self,
        x: Any,
        y: Any,
        *,
        fc_weight: Any,
        proj_weight: Any,
        workspace: Any = None,
        gate_weight: Any = None,
        fc_bias: Any = None,
        gate_bias: Any = None,
        proj_bias: Any = None,
        residual: Any = None,
    ) -> FeedForwardArgs:
        form, view = self.form, matrix(x, "x")
        if (view.type, view.width) != (type_of(form.dtype), form.hidden_size):
            raise InputError(
                f"x is {view.type.name.lower()} ({view.rows}, {view.width}); the plan is for {form.dtype} "
                f"(tokens, {form.hidden_size})."
            )
        wide, out = form.ffn_hidden_size, rows_of(y, "y", view)
        space, size = _workspace(workspace)
        args = FeedForwardArgs(
            size=ctypes.sizeof(FeedForwardArgs),
            num_tokens=view.rows,
            x=view.pointer,
            fc_weight=_weight(fc_weight, "fc_weight", view, wide, form.hidden_size),
            proj_weight=_weight(proj_weight, "proj_weight", view, form.hidden_size, wide),
            gate_weight=_weight(gate_weight, "gate_weight", view, wide, form.hidden_size),
            fc_bias=row_pointer(fc_bias, "fc_bias", view, width=wide),
            gate_bias=row_pointer(gate_bias, "gate_bias", view, width=wide),
            proj_bias=row_pointer(proj_bias, "proj_bias", view),
            y=out.pointer,
            x_stride=view.stride,
            y_stride=out.stride,
            workspace=space,
            workspace_size=size,
        )
        if residual is not None:
            skip = rows_of(residual, "residual", view)
            args.residual, args.residual_stride = skip.pointer, skip.stride
        return args


def _weight(value: Any, role: str, like: Matrix, rows: int, width: int) -> int | None:
    if value is None:
        return None
    found = matrix(value, role)
    if (found.type, found.rows, found.width, found.stride) != (like.type, rows, width, width):
        raise InputError(
            f"{role} is {found.type.name.lower()} ({found.rows}, {found.width}), a row every {found.stride}; "
            f"expected {like.type.name.lower()} ({rows}, {width}) without gaps."
        )
    return found.pointer


def _workspace(value: Any) -> tuple[int | None, int]:
    """The pointer and size of anything that holds bytes."""
    if value is None:
        return None, 0
    if hasattr(value, "data_ptr"):
        return value.data_ptr(), value.numel() * value.element_size()
    if hasattr(value, "ctypes"):
        return value.ctypes.data, value.nbytes
    interface = getattr(value, "__cuda_array_interface__", None)
    if interface is None:
        raise InputError(
            f"workspace is a {type(value).__name__}; expected a torch tensor, a numpy or a CUDA array."
        )
    return int(interface["data"][0]), math.prod(interface["shape"]) * int(interface["typestr"][2:])
