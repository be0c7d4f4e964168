"""The MLPs of a model of TensorRT-LLM's, made of our sublayers."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from trtllm_ext.errors import ConfigError
from trtllm_ext.graph import Module, Tensor, functional
from trtllm_ext.layers import ColumnLinear, FeedForward, GatedFeedForward, LayerNorm, RowLinear
from trtllm_ext.plugin.formulas import gated_activation
from trtllm_ext.tensorrt_llm.in_use import require

# TensorRT-LLM's names of activations, and ours of what they compute: its GELU is the tanh form under every name.
ACTIVATIONS = {
    **dict.fromkeys(("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "openai-gelu"), "gelu_tanh"),
    **{name: name for name in ("relu", "tanh", "silu", "identity", "sigmoid", "quick_gelu")},
    **dict.fromkeys(("squared-relu", "relu2"), "squared_relu"),
}
# Of an MLP whose first matrix has both halves: what is applied to the second.
_FUSED_ACTIVATIONS = {"swiglu": "silu", "silu": "silu", "gelu": "gelu_tanh"}
_NO_LORA = "LoRA is not part of our sublayers. Leave --lora_plugin out, or replace no MLPs."


def replace_mlps(model: Any, make: Callable[[Any], Any] | None = None) -> list[str]:
    """Put our sublayers in the place of a model's MLPs; returns their dotted names.

    model: a Module of TensorRT-LLM's, such as a LLaMAForCausalLM, that has parts of its classes MLP, GatedMLP or
        FusedGatedMLP.
    make: given an MLP, the Module for its place, with parameters of the same names and shapes; `same_form` by default.
    The parameters themselves are kept, with their values where they have some, so that checkpoints load before or
    after. Call it before `tensorrt_llm.builder.build`.
    Raises BackendError where TensorRT-LLM's graph API is not in use, ConfigError, before anything is replaced, for a
    model without MLPs, and for one that cannot be expressed: an expert, quantised, with LoRA, of an activation that is
    not known, and what `make` gives other parameters for.
    """
    require("replace_mlps")
    kinds = _kinds()
    found = [
        (name, mlp, parent)
        for name, mlp, parent in model.named_modules_with_parent(remove_duplicate=False)
        if parent is not None and _is_mlp(mlp, tuple(kinds.values()))
    ]
    if not found:
        raise ConfigError(
            f"a {type(model).__name__} has no {', '.join(kinds)} below it, so there is nothing to replace."
        )
    made: dict[Any, Any] = {}
    for name, mlp, _ in found:
        if mlp in made:  # one MLP in several places stays one
            continue
        try:
            made[mlp] = _with_parameters((make or same_form)(mlp), mlp)
        except ConfigError as problem:
            raise ConfigError(f"{name}, a {type(mlp).__name__}, cannot be replaced: {problem}") from problem
    for name, mlp, parent in found:
        parent._modules[name.rpartition(".")[2]] = made[mlp]
    return [name for name, _, _ in found]


def same_form(mlp: Any) -> Module:
    """Our sublayer that computes what an MLP of TensorRT-LLM's does, its parameters unset.

    Raises ConfigError for what none of ours computes.
    """
    kinds = _kinds()
    if type(mlp) not in kinds.values():
        raise ConfigError(f"its class is not one of {', '.join(kinds)} itself.")
    _check_plain(mlp)
    name = mlp.hidden_act
    is_fused = isinstance(mlp, kinds["FusedGatedMLP"]) or name == "swiglu"
    known = _FUSED_ACTIVATIONS if is_fused else ACTIVATIONS
    if name not in known:
        raise ConfigError(
            f"hidden_act={name!r} of this kind of MLP is not one of ours; those are {', '.join(known)}."
        )
    sizes = {"hidden_size": mlp.hidden_size, "ffn_hidden_size": mlp.ffn_hidden_size}
    shared = {"hidden_act": known[name], "bias": mlp.bias, "dtype": _dtype(mlp)}
    ranks = {"tp_group": mlp.tp_group, "tp_size": mlp.tp_size}
    norm = _inner_norm(mlp)
    if is_fused:
        first = "fused_fc" if isinstance(mlp, kinds["FusedGatedMLP"]) else "fc"
        return FusedGatedSublayer(first, inner_norm=norm, **sizes, **shared, **ranks)
    kind = GatedSublayer if isinstance(mlp, kinds["GatedMLP"]) else Sublayer
    return kind(inner_norm=norm, **sizes, **shared, **ranks)


class Sublayer(FeedForward):
    """A FeedForward that is called as an MLP."""

    def forward(
        self,
        hidden_states: Tensor,
        lora_layer_params: Any = None,
        gegelu_limit: float | None = None,
        *,
        residual: Tensor | None = None,
    ) -> Tensor:
        """gegelu_limit: of no effect, as with every activation but gegelu. Raises ConfigError for LoRA."""
        _refuse_lora(lora_layer_params)
        return super().forward(hidden_states, residual=residual)


class GatedSublayer(GatedFeedForward):
    """A GatedFeedForward that is called as a GatedMLP."""

    def forward(
        self,
        hidden_states: Tensor,
        lora_layer_params: Any = None,
        all_reduce_params: Any = None,
        *,
        residual: Tensor | None = None,
    ) -> Any:
        """all_reduce_params: as `GatedFeedForward` takes them. Raises ConfigError for LoRA."""
        _refuse_lora(lora_layer_params)
        return super().forward(hidden_states, residual=residual, all_reduce_params=all_reduce_params)


class FusedGatedSublayer(Module):
    """proj(act(b) * a), a and b being the halves of the first matrix's output: its rows are [gate; fc] on each rank.

    first: the name of that matrix, (2 * ffn_hidden_size / tp_size, hidden_size).
    """

    def __init__(
        self,
        first: str,
        *,
        hidden_size: int,
        ffn_hidden_size: int,
        hidden_act: str,
        bias: bool,
        dtype: str,
        tp_group: list[int] | None,
        tp_size: int,
        inner_norm: Module | None,
    ) -> None:
        super().__init__()
        self.hidden_act = hidden_act
        ranks = (tp_group, tp_size)
        self._first = first
        setattr(
            self,
            first,
            ColumnLinear(hidden_size, 2 * ffn_hidden_size, bias, dtype, *ranks, gather_output=False),
        )
        self.inner_layernorm = inner_norm
        self.proj = RowLinear(ffn_hidden_size, hidden_size, bias, dtype, *ranks)

    def forward(
        self,
        hidden_states: Tensor,
        lora_layer_params: Any = None,
        all_reduce_params: Any = None,
        gegelu_limit: float | None = None,
    ) -> Any:
        """As GatedSublayer's."""
        _refuse_lora(lora_layer_params)
        both = getattr(self, self._first)(hidden_states)
        gate, fc = functional.split(both, both.shape[-1] // 2, both.rank() - 1)
        inner = gated_activation(fc, gate, self.hidden_act)
        if self.inner_layernorm is not None:
            inner = self.inner_layernorm(inner)
        return self.proj(inner, all_reduce_params=all_reduce_params)


def _kinds() -> dict[str, Any]:
    layers = import_module("tensorrt_llm.layers.mlp")
    return {name: getattr(layers, name) for name in ("MLP", "GatedMLP", "FusedGatedMLP")}


def _is_mlp(module: Any, kinds: tuple[Any, ...]) -> bool:
    # Quantised ones, such as SmoothQuantMLP, are no subclasses; to pass over them would be to leave part of a model.
    return isinstance(module, kinds) or type(module).__name__.endswith("MLP")


def _check_plain(mlp: Any) -> None:
    """Raise ConfigError for quantised matrices, LoRA, and experts, whose ranks' shares somebody else adds."""
    linear = import_module("tensorrt_llm.layers.linear")
    for name, child in mlp.named_children():
        if name in ("fc", "gate", "fused_fc", "proj") and type(child) not in (
            linear.Linear,
            linear.RowLinear,
        ):
            raise ConfigError(
                f"its {name} is a {type(child).__name__}; ours are of plain, unquantised weights."
            )
    quantised = getattr(mlp.quant_mode, "has_any_quant", lambda: False)
    if quantised():
        raise ConfigError(f"it is quantised ({mlp.quant_mode!s}); ours are not.")
    if getattr(mlp, "lora", None) is not None or any(
        getattr(child, "lora", None) is not None for child in mlp.children()
    ):
        raise ConfigError(_NO_LORA)
    if getattr(mlp, "is_expert", False):
        raise ConfigError("it is an expert of a mixture, which adds the ranks' shares up itself.")


def _inner_norm(mlp: Any) -> Module | None:
    norm = mlp.inner_layernorm
    if norm is None:
        return None
    if mlp.tp_size > 1:
        raise ConfigError(
            f"its inner_layernorm with tp_size={mlp.tp_size} would normalise one rank's share by itself."
        )
    return LayerNorm(mlp.ffn_hidden_size, eps=norm.eps, dtype=_dtype(mlp))


def _dtype(mlp: Any) -> str:
    return str(import_module("tensorrt_llm._utils").trt_dtype_to_str(mlp.proj.weight.dtype))


def _with_parameters(module: Any, mlp: Any) -> Any:
    """`module` with the MLP's own parameters. Raises ConfigError unless names and shapes are the same."""
    if not isinstance(module, Module):
        raise ConfigError(f"`make` gave a {type(module).__name__}, not a Module.")
    theirs, ours = dict(mlp.named_parameters()), dict(module.named_parameters())
    for name in sorted({*theirs, *ours}):
        shapes = [tuple(each[name].shape) if name in each else None for each in (theirs, ours)]
        if shapes[0] != shapes[1]:
            raise ConfigError(
                f"parameter {name} is {shapes[0] or 'not there'} in it and {shapes[1] or 'not there'} in the "
                f"{type(module).__name__}, so its checkpoints would not load."
            )
    owners = dict(module.named_modules())
    for name, parameter in theirs.items():
        owner, _, last = name.rpartition(".")
        owners[owner]._parameters[last] = parameter
    return module


def _refuse_lora(params: Any) -> None:
    if params is not None:
        raise ConfigError(_NO_LORA)
