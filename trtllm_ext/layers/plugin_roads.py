"""Where layers take the road of a plugin; where none is asked for, or none fits, they keep to TensorRT's own."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from trtllm_ext.graph import Module, Tensor
from trtllm_ext.graph.changes import is_changed
from trtllm_ext.graph.late import LateTensor
from trtllm_ext.plugin import formulas
from trtllm_ext.plugin import functional as plugins
from trtllm_ext.plugin.choice import allows_tf32, asks_for, decline, is_tapped
from trtllm_ext.plugin.feed_forward import FEED_FORWARD
from trtllm_ext.plugin.gated_activation import GATED_ACTIVATION
from trtllm_ext.plugin.residual_norm import RESIDUAL_NORM

if TYPE_CHECKING:
    from trtllm_ext.layers.feed_forward import FeedForward
    from trtllm_ext.layers.normalization import LayerNorm, RmsNorm
    from trtllm_ext.layers.residual import Residual

_LAYERS = "trtllm_ext.layers."
_CHANGED = "surgery may change the {} before it is added or read: the sum is a layer of its own"


def activated(
    fc: Tensor, gate: Tensor | None, hidden_act: str, clamp: float | None = None, gate_offset: float = 0.0
) -> Tensor:
    """`formulas.gated_activation`, by the plugin where that is asked for."""
    does_nothing = hidden_act == "identity" and gate is None and clamp is None
    if does_nothing or not asks_for("gated_activation_plugin", GATED_ACTIVATION, fc.dtype):
        return formulas.gated_activation(fc, gate, hidden_act, clamp, gate_offset)
    return plugins.gated_activation(fc, gate, activation=hidden_act, clamp=clamp, gate_offset=gate_offset)


def feed_forward(module: FeedForward, x: Tensor, residual: Tensor | None) -> Tensor | None:
    """A whole feed-forward, plus `residual`, as one plugin layer."""
    if not takes_feed_forward(module, x.dtype):
        return None
    gate = module.gate if hasattr(module, "gate") else None
    return plugins.feed_forward(
        x,
        module.fc.weight.value,
        module.proj.weight.value,
        gate_weight=None if gate is None else gate.weight.value,
        fc_bias=_value(module.fc.bias),
        gate_bias=None if gate is None else _value(gate.bias),
        proj_bias=_value(module.proj.bias),
        residual=residual,
        activation=module.hidden_act,
        clamp=getattr(module, "clamp", None),
        gate_offset=getattr(module, "gate_offset", 0.0),
        tf32=allows_tf32(),
    )


def takes_feed_forward(module: Module, dtype: Any) -> bool:
    """Whether a sublayer on inputs of this type is one that the plugin is asked for and computes."""
    if not _is_some_feed_forward(module) or not asks_for("ffn_plugin", FEED_FORWARD, dtype):
        return False
    reason = _not_a_feed_forward(module) or _not_of_one_type(module, dtype)
    return not (reason and decline("ffn_plugin", reason))


def _is_some_feed_forward(module: Module) -> bool:
    """Whether one would look for the plugin here, and be told why not: attention is none."""
    known = (_LAYERS + "feed_forward", _LAYERS + "mixture_of_experts")
    return any(each.__module__ in known for each in type(module).__mro__)


def _not_a_feed_forward(module: Module) -> str | None:
    """Why a sublayer is not what the plugin computes; None where it is."""
    if type(module).__module__ != _LAYERS + "feed_forward":
        return f"the sublayer is a {type(module).__name__}"
    parts = [part for part in (module.fc, getattr(module, "gate", None), module.proj) if part is not None]
    if others := {type(part).__name__ for part in parts if type(part).__module__ != _LAYERS + "linear"}:
        return f"a matrix of the feed-forward is a {', '.join(sorted(others))}"
    if "inner" in vars(module) or any("forward" in vars(part) for part in (module, *parts)):
        return "the feed-forward, or a matrix of it, has had a method replaced"
    if module.proj.tp_size > 1:
        return "the feed-forward is split over ranks"
    if module.inner_layernorm is not None:
        return "the feed-forward has a norm inside"
    return None


def _not_of_one_type(module: Module, dtype: Any) -> str | None:
    if any(parameter.value.dtype != dtype for _, parameter in module.named_parameters()):
        return "the type of the input is not that of the weights"
    return None


def hands_skip_over(block: Residual, skip: Tensor) -> bool:
    """Whether a block's skip connection may be added inside its sublayer: nothing stands between the two."""
    between = (block.post_norm, block.gate, block.connections, block.stream_dtype, block.token_group)
    return (
        type(block).__module__ == _LAYERS + "residual"
        and all(part is None for part in between)
        and block.scale in (None, 1.0)
        and not block.clamp
        and (block.norm is None or block.placement != "branch")
        and takes_feed_forward(block.sublayer, skip.dtype)
        and not is_tapped(block.sublayer, "contribution")
        and not (
            is_changed(block.sublayer, "contribution")
            and decline("ffn_plugin", _CHANGED.format("contribution"))
        )
    )


def tell_of_change(module: Module, point: str, value: Tensor) -> None:
    """Say, where surgery is about to change a sum that a norm would have taken over, why the norm will not."""
    if isinstance(value, LateTensor) and value.terms is not None and is_changed(module, point):
        decline("residual_norm_plugin", _CHANGED.format("stream"))


def total(skip: Tensor, contribution: Tensor, is_read_again: bool) -> Tensor:
    """skip + contribution; written down late where a norm may take it over.

    is_read_again: whether anybody reads the sum besides the next norm.
    """
    if skip.dtype != contribution.dtype or not asks_for("residual_norm_plugin", RESIDUAL_NORM, skip.dtype):
        return skip + contribution
    add = partial(Tensor.__add__, skip, contribution)
    return LateTensor(skip, add, terms=(skip, contribution), is_read_again=is_read_again)


def normed(module: LayerNorm | RmsNorm, x: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """A norm of x, with the sum of a skip connection that x is, as one plugin layer."""
    if not asks_for("residual_norm_plugin", RESIDUAL_NORM, x.dtype):
        return None
    if shape[-1] != x.shape[-1]:
        return None  # TensorRT's own layers refuse it
    weight, bias = _value(module.weight), _value(getattr(module, "bias", None))
    if reason := _not_a_norm_of_rows(module, x, shape, (weight, bias)):
        decline("residual_norm_plugin", reason)
        return None
    form = module.form
    settings: dict[str, Any] = {
        "weight": weight,
        "norm_bias": bias,
        "norm": form.kind,
        "eps": form.eps,
        "weight_offset": form.weight_offset if weight is not None else 0.0,
        "rounding": form.rounding,
    }
    terms = x.terms if isinstance(x, LateTensor) else None
    if terms is None or not isinstance(x, LateTensor):
        return plugins.residual_norm(x, with_sum=False, **settings)[0]
    skip, contribution = terms
    *sums, result = plugins.residual_norm(contribution, skip, with_sum=x.is_read_again, **settings)
    for each in sums:
        x.give(each)
    return result


def _not_a_norm_of_rows(
    module: LayerNorm | RmsNorm, x: Tensor, shape: tuple[int, ...], weights: tuple[Tensor | None, ...]
) -> str | None:
    """Why a norm is not what the plugin computes; None where it is."""
    if type(module).__module__ != _LAYERS + "normalization":
        return f"the norm is a {type(module).__name__}"
    if module.tp_size > 1:
        return "the axis of a norm is split over ranks"
    if len(shape) > 1 or getattr(module, "num_groups", 1) > 1:
        return "a norm is over several axes or over groups"
    if any(each is not None and each.dtype != x.dtype for each in weights) or module.output_dtype is not None:
        return "a norm changes the type"
    return None


def _value(parameter: Any) -> Tensor | None:
    return None if parameter is None else parameter.value
