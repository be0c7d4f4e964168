"""The kernels as PyTorch operators: torch.ops.trtllm_ext.residual_norm, .gated_activation, .feed_forward.

Importing this module registers them; they work under torch.compile and in CUDA graphs. On a GPU they are the library's
kernels, on the current stream; on the CPU the same formulas in torch, so that a model can be tested anywhere. They are
for inference: a backward pass through them is refused.

    from trtllm_ext.plugin import torch_ops
    stream, normed = torch_ops.residual_norm(x, stream, weight=gamma, norm="rms_norm", eps=1e-6)
"""

import math
from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from trtllm_ext.errors import TrtllmExtError
from trtllm_ext.plugin import torch_checks as checks
from trtllm_ext.plugin import torch_formulas
from trtllm_ext.plugin.c_interface import Activation
from trtllm_ext.plugin.kernels import member
from trtllm_ext.plugin.torch_plans import kernels, plan_for, workspace_of


@torch.library.custom_op("trtllm_ext::residual_norm", mutates_args=(), device_types="cuda")
def residual_norm(
    x: Tensor,
    residual: Tensor | None = None,
    bias: Tensor | None = None,
    weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    *,
    norm: str,
    eps: float = 1e-5,
    weight_offset: float = 0.0,
    rounding: str = "after_weight",
) -> tuple[Tensor, Tensor]:
    """(sum, normed): sum = x + bias + residual; normed = norm(sum) * (weight + weight_offset) + norm_bias.

    x, residual: (..., hidden); bias, weight, norm_bias: (hidden); all float32, float16 or bfloat16.
    sum: an empty tensor (0,) where neither residual nor bias is given: it would be x.
    norm: 'layer_norm' or 'rms_norm'. rounding: 'after_weight', or 'before_weight' to round in between as well.
    """
    total, normed = _sum_of(x, residual, bias), x.new_empty(x.shape)
    _norm_rows(
        (x, residual, bias, weight, norm_bias),
        total,
        normed=_rows(normed),
        norm=norm,
        eps=eps,
        weight_offset=weight_offset,
        rounding=rounding,
    )
    return total, normed


@torch.library.custom_op("trtllm_ext::residual_norm_quantized", mutates_args=(), device_types="cuda")
def residual_norm_quantized(
    x: Tensor,
    residual: Tensor | None = None,
    bias: Tensor | None = None,
    weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    *,
    dtype: torch.dtype,
    norm: str,
    eps: float = 1e-5,
    weight_offset: float = 0.0,
    rounding: str = "after_weight",
) -> tuple[Tensor, Tensor, Tensor]:
    """(sum, quantized, scales): as `residual_norm`, with normed = quantized * scales, a scale a row.

    dtype: torch.int8 or torch.float8_e4m3fn, of quantized (..., hidden); scales: (..., 1) float32, the row's largest
    magnitude over 127 or 448.
    """
    total, quantized = _sum_of(x, residual, bias), x.new_empty(x.shape, dtype=dtype)
    scales = x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)
    _norm_rows(
        (x, residual, bias, weight, norm_bias),
        total,
        quantized=_rows(quantized),
        scales=scales.reshape(-1),
        norm=norm,
        eps=eps,
        weight_offset=weight_offset,
        rounding=rounding,
    )
    return total, quantized, scales


@torch.library.custom_op("trtllm_ext::gated_activation", mutates_args=(), device_types="cuda")
def gated_activation(
    fc: Tensor,
    gate: Tensor | None = None,
    fc_bias: Tensor | None = None,
    gate_bias: Tensor | None = None,
    *,
    activation: str,
    clamp: float = 0.0,
    gate_offset: float = 0.0,
) -> Tensor:
    """act(fc + fc_bias), times gate + gate_bias + gate_offset where there is a gate.

    fc, gate: (..., width), the halves of one matrix or two; biases: (width). activation: a name of
    `checkpoint.ACTIVATIONS`. clamp: c limits fc to at most c and the gate to -c..c; 0 for none.
    """
    checks.check_activation_args(fc, gate, fc_bias, gate_bias, activation)
    output = fc.new_empty(fc.shape)
    with torch.cuda.device(fc.device):
        kernels().gated_activation(
            _rows(fc),
            _rows(output),
            gate=_rows(gate),
            fc_bias=_packed(fc_bias),
            gate_bias=_packed(gate_bias),
            activation=activation,
            clamp=clamp,
            gate_offset=gate_offset,
            stream=torch.cuda.current_stream(),
        )
    return output


@torch.library.custom_op("trtllm_ext::feed_forward", mutates_args=(), device_types="cuda")
def feed_forward(
    x: Tensor,
    fc_weight: Tensor,
    proj_weight: Tensor,
    gate_weight: Tensor | None = None,
    fc_bias: Tensor | None = None,
    gate_bias: Tensor | None = None,
    proj_bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    activation: str,
    clamp: float = 0.0,
    gate_offset: float = 0.0,
    tf32: bool = False,
) -> Tensor:
    """act(x fc^T + fc_bias) [* (x gate^T + gate_bias)] proj^T + proj_bias + residual.

    Of Hugging Face's models fc_weight is gate_proj, which is activated, gate_weight up_proj, proj_weight down_proj.
    x, residual: (..., hidden); fc_weight, gate_weight: (ffn, hidden); proj_weight: (hidden, ffn); fc_bias, gate_bias:
    (ffn); proj_bias: (hidden); all of one type. clamp, gate_offset: as `gated_activation`. tf32: whether float32
    products may round their operands to TF32. `tune_feed_forward` finds the fastest products for a number of tokens.
    """
    tensors = checks.feed_forward_tensors(
        x, fc_weight, proj_weight, gate_weight, fc_bias, gate_bias, proj_bias, residual
    )
    return _on_plan("run", tensors, activation, clamp, gate_offset, tf32)


def tune_feed_forward(
    x: Tensor,
    fc_weight: Tensor,
    proj_weight: Tensor,
    gate_weight: Tensor | None = None,
    fc_bias: Tensor | None = None,
    gate_bias: Tensor | None = None,
    proj_bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    activation: str,
    clamp: float = 0.0,
    gate_offset: float = 0.0,
    tf32: bool = False,
) -> None:
    """Time the ways to compute `feed_forward` of these arguments; later calls of about as many tokens use the fastest.

    Waits for the GPU, and is not for a CUDA graph's capture, nor while other threads run the same form. On the CPU
    nothing is to be chosen: the arguments are checked, no more.
    """
    tensors = checks.feed_forward_tensors(
        x, fc_weight, proj_weight, gate_weight, fc_bias, gate_bias, proj_bias, residual
    )
    member(Activation, activation)
    if x.device.type != "cpu":
        _on_plan("tune", tensors, activation, clamp, gate_offset, tf32)


def _on_plan(
    what: str,
    tensors: dict[str, Tensor | None],
    activation: str,
    clamp: float,
    gate_offset: float,
    tf32: bool,
) -> Tensor:
    x = tensors["x"]
    assert x is not None
    member(Activation, activation)
    y = x.new_empty(x.shape)
    views = {
        name: _rows(value) if name in ("x", "residual") else _packed(value) for name, value in tensors.items()
    }
    settings = {"activation": activation, "clamp": clamp, "gate_offset": gate_offset, "tf32": tf32}
    with torch.cuda.device(x.device):
        plan = plan_for(tensors, settings)
        workspace = workspace_of(plan, x)
        call = getattr(plan, what)
        call(views.pop("x"), _rows(y), **views, workspace=workspace, stream=torch.cuda.current_stream())
    return y


def _norm_rows(inputs: tuple[Tensor | None, ...], total: Tensor, **settings: Any) -> None:
    x, residual, bias, weight, norm_bias = inputs
    assert x is not None
    checks.check_norm_args(x, residual, bias, weight, norm_bias, settings)
    with torch.cuda.device(x.device):
        kernels().residual_norm(
            _rows(x),
            residual=_rows(residual),
            bias=_packed(bias),
            weight=_packed(weight),
            norm_bias=_packed(norm_bias),
            sum=None if residual is None and bias is None else _rows(total),
            stream=torch.cuda.current_stream(),
            **settings,
        )


def _sum_of(x: Tensor, residual: Tensor | None, bias: Tensor | None) -> Tensor:
    return x.new_empty((0,) if residual is None and bias is None else x.shape)


def _rows(value: Tensor | None) -> Any:
    """`value` as (rows, width), a view wherever the kernels can read it where it lies."""
    if value is None:
        return None
    rows = value.reshape(math.prod(value.shape[:-1]), value.shape[-1])
    readable = rows.shape[1] < 2 or (
        rows.stride(1) == 1 and (rows.shape[0] < 2 or rows.stride(0) >= rows.shape[1])
    )
    return rows if readable else rows.contiguous()


def _packed(value: Tensor | None) -> Any:
    return None if value is None else value.contiguous()


def _on_cpu(operator: Any, formula: Callable[..., Any]) -> None:
    """Let `formula` be the operator's CPU implementation; torch leaves out arguments that have their defaults."""
    settings = {
        each.name: each.default_value for each in operator._opoverload._schema.arguments if each.kwarg_only
    }

    @operator.register_kernel("cpu")
    def on_cpu(*tensors: Tensor | None, **given: Any) -> Any:
        return formula(*tensors, **settings | given)


@residual_norm.register_fake
def _residual_norm_fake(
    x: Tensor, residual: Tensor | None = None, bias: Tensor | None = None, *others: Any, **settings: Any
) -> tuple[Tensor, Tensor]:
    return _sum_of(x, residual, bias), x.new_empty(x.shape)


@residual_norm_quantized.register_fake
def _residual_norm_quantized_fake(
    x: Tensor,
    residual: Tensor | None = None,
    bias: Tensor | None = None,
    *others: Any,
    dtype: torch.dtype,
    **settings: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    scales = x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)
    return _sum_of(x, residual, bias), x.new_empty(x.shape, dtype=dtype), scales


@gated_activation.register_fake
def _gated_activation_fake(fc: Tensor, *others: Any, **settings: Any) -> Tensor:
    return fc.new_empty(fc.shape)


@feed_forward.register_fake
def _feed_forward_fake(x: Tensor, *others: Any, **settings: Any) -> Tensor:
    return x.new_empty(x.shape)


def _no_gradients(context: Any, *gradients: Tensor) -> None:
    raise TrtllmExtError(
        "trtllm_ext's operators are for inference and have no gradients. Run the model under torch.inference_mode() or "
        "torch.no_grad(), or train it with torch's own operators."
    )


for _operator, _formula in (
    (residual_norm, torch_formulas.residual_norm),
    (residual_norm_quantized, torch_formulas.residual_norm_quantized),
    (gated_activation, torch_formulas.gated_activation),
    (feed_forward, torch_formulas.feed_forward),
):
    _on_cpu(_operator, _formula)
    _operator.register_autograd(_no_gradients)
    # Torch's own say what an operator is.
    vars(_operator).update(__doc__=_operator._init_fn.__doc__, __signature__=signature(_operator._init_fn))
