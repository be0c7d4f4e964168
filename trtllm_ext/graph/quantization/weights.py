"""Weights on their way into a quantised checkpoint: torch tensors on the host, no layers.

Some give the orders of bytes that TensorRT-LLM's tests use; the orders of its kernels come from its compiled library,
and what needs that is refused.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from trtllm_ext.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

_W4A8 = 8
_AUTOAWQ_ORDER = [0, 4, 1, 5, 2, 6, 3, 7]
_FP8_LIMIT = 448.0


def symmetric_quantize_last_axis_of_batched_matrix(
    weight: "Tensor", quant_mode: Any
) -> "tuple[Tensor, Tensor]":
    """Columns of `weight` (in, out) as whole multiples of a scale each.

    quant_mode: torch.int8 (-128..127, scale = largest / 128), or torch.quint4x2 (-8..7, scale = largest / 8).
    Returns int8 (in, out) whose bytes are in column order, two numbers in a byte and (in, out / 2) for quint4x2, the
    first in the low half; and the scales (out,) in the weight's type. A column of zeros has the scale 0.
    """
    import torch

    limit = 128 if quant_mode == torch.int8 else 8
    scale = weight.abs().amax(dim=0) / limit
    steps = (weight / torch.where(scale == 0, torch.ones_like(scale), scale)).round()
    whole = steps.clamp(-limit, limit - 1).to(torch.int8)
    if quant_mode == torch.int8:
        return whole.T.reshape(weight.shape), scale
    return _packed(whole.T).reshape(weight.shape[0], weight.shape[1] // 2), scale


def preprocess_weights_for_mixed_gemm(weight: "Tensor", quant_mode: Any) -> "Tensor":
    """Bytes of `weight` (in, out) in column order; for torch.quint4x2 (in, out / 2), columns exchanged in pairs."""
    import torch

    if quant_mode == torch.int8:
        return weight.T.reshape(weight.shape)
    rows, packed_columns = weight.shape
    numbers = weight.view(torch.uint8)
    halves = torch.stack([numbers // 16, numbers % 16], dim=-1).reshape(rows, 2 * packed_columns)
    columns = halves.T.to(torch.int8)
    packed = columns[:, ::2] + columns[:, 1::2] * 16
    swapped = packed.reshape(packed_columns, 2, -1).flip(1)
    return swapped.reshape(rows, packed_columns)


def validate_group_size(layer: Any) -> None:
    """Raises ConfigError for a layer of 4-bit weights and 8-bit activations (quant_algo bit 8) in groups of 64."""
    if layer.quant_algo & _W4A8 and layer.group_size == 64:
        raise ConfigError("W4A8 AWQ has no kernels for group_size=64; use 128.")


def unpack_int32_into_int8(w_packed: "Tensor", autoawq_reorder: bool = False) -> "Tensor":
    """Eight 4-bit numbers in each int32 as int8 0..15, lowest bits first: (rows, columns) -> (rows, 8 * columns).

    autoawq_reorder: each eight are in AutoAWQ's order, and are put in their natural one.
    """
    import torch

    data = w_packed.contiguous().view(torch.uint8)
    numbers = torch.stack([data % 16, data // 16], dim=-1).reshape(data.shape[0], -1).to(torch.int8)
    if autoawq_reorder:
        numbers = numbers.reshape(-1, 8)[:, _AUTOAWQ_ORDER].reshape(numbers.shape)
    return numbers.contiguous()


def change_qkv_leading_dim(w: "Tensor", num_heads: int) -> "Tensor":
    """Query, key and value side by side in each head -> all queries, all keys, all values, along the last dimension."""
    heads = w.reshape(*w.shape[:-1], num_heads, 3, -1)
    return heads.transpose(-3, -2).reshape(w.shape)


def pad_like(w: "Tensor", target_shape: Sequence[int], value: float = 0) -> "Tensor":
    """`w` filled up with `value` behind each dimension to at least target_shape; w itself if it has that shape."""
    import torch

    if tuple(w.shape) == tuple(target_shape):
        return w
    margins: list[int] = []
    for have, want in zip(reversed(w.shape), reversed(list(target_shape)), strict=True):
        margins += [0, max(0, want - have)]
    return torch.nn.functional.pad(w, margins, value=value)


def postprocess_fp8_rowwise(tllm_key: str, weights: "Sequence[Tensor]", **kwargs: Any) -> "dict[str, Tensor]":
    """The checkpoint entries of fp8 weights with a scale by row.

    weights: weight, scale, weight, scale, ..., put together along the rows. A scale of None means that the weights are
        floats, which are limited to `config.quantization.clamp_val` (keyword config) and quantised.
    Returns {tllm_key: fp8 weights, the key with per_channel_scale in place of weight: float32 scales}; nothing for a
    key of scales, which come with their weights.
    Raises ConfigError when scales come with weights that are not fp8.
    """
    import torch

    if tllm_key.endswith("per_channel_scale"):
        return {}
    parts, scales = list(weights[0::2]), list(weights[1::2])
    scale_key = tllm_key.replace("weight", "per_channel_scale")
    whole = torch.cat(parts, dim=0)
    if scales[0] is not None:
        if whole.dtype != torch.float8_e4m3fn:
            raise ConfigError(
                f"{tllm_key} has scales, so its weights are to be float8_e4m3fn, not {whole.dtype}."
            )
        return {
            tllm_key: whole,
            scale_key: torch.cat([scale.to(torch.float32).flatten() for scale in scales]),
        }
    low, high = kwargs["config"].quantization.clamp_val
    limited = whole.to(torch.float32).clamp(low, high)
    scale = (limited.abs().amax(-1, keepdim=True) / _FP8_LIMIT).clamp(min=1.0 / (_FP8_LIMIT * 512.0))
    steps = (limited / scale).clamp(-_FP8_LIMIT, _FP8_LIMIT)
    return {tllm_key: steps.to(torch.float8_e4m3fn), scale_key: scale.reshape(-1)}


def postprocess_weight_only(*args: Any, **kwargs: Any) -> NoReturn:
    """Not available: weights in the order of TensorRT-LLM's kernels."""
    raise _needs_library("postprocess_weight_only")


def postprocess_weight_only_groupwise(*args: Any, **kwargs: Any) -> NoReturn:
    """Not available: weights of groups in the order of TensorRT-LLM's kernels."""
    raise _needs_library("postprocess_weight_only_groupwise")


def _packed(numbers: "Tensor") -> "Tensor":
    """Pairs of 4-bit numbers along the last dimension in one int8, the first in the low half."""
    import torch

    unsigned = torch.where(numbers < 0, numbers + 16, numbers).to(torch.uint8)
    return (unsigned[:, ::2] + unsigned[:, 1::2] * 16).view(torch.int8)


def _needs_library(name: str) -> ConfigError:
    return ConfigError(
        f"{name} needs torch.ops.trtllm, TensorRT-LLM's compiled library, which orders weights for its kernels. "
        "weight_only_quant_matmul takes int8 weights in their natural order."
    )
