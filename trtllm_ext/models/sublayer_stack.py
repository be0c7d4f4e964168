"""N residual feed-forward sublayers on packed tokens: the smallest useful network."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, ClassVar, Literal

from trtllm_ext.checkpoint import Contract, FeedForwardContract, ModelConfig, NormContract, ResidualContract
from trtllm_ext.checkpoint.contract import CONTRACT_VERSION, Placement
from trtllm_ext.graph import Module, ModuleList, Tensor
from trtllm_ext.models.base import Model, optimum, positive_limit
from trtllm_ext.models.layer import TransformerLayer, norm_from_contract


def sublayer_stack_config(
    *,
    hidden_size: int,
    ffn_hidden_size: int,
    num_hidden_layers: int,
    hidden_act: str = "relu",
    gated: bool = False,
    bias: bool = True,
    norm: Literal["layer_norm", "rms_norm"] = "layer_norm",
    eps: float = 1e-5,
    placement: Placement = "pre",
    scale: float = 1.0,
    final_norm: bool = False,
    dtype: str = "float32",
) -> ModelConfig:
    """A SublayerStack's config from its sizes and the form of its sublayers.

    placement: see `checkpoint.PLACEMENTS`; 'none' is a plain skip without any norm.
    Raises ConfigError for sizes below 1, and for unknown names.
    """
    contract = NormContract(kind=norm, eps=eps, bias=norm == "layer_norm")
    residual = ResidualContract(
        placement=placement,
        norm=None if placement == "none" else contract,
        post_norm=contract if placement == "sandwich" else None,
        scale=scale,
    )
    return ModelConfig(
        architecture="SublayerStack",
        dtype=dtype,
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        intermediate_size=ffn_hidden_size,
        contract=Contract(
            version=CONTRACT_VERSION,
            embedding=None,
            attention=None,
            feed_forward=FeedForwardContract(
                gated=gated, activation=hidden_act, bias=bias, residual=residual
            ),
            final_norm=contract if final_norm else None,
            pooling=None,
        ),
    )


class _Transformer(Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = ModuleList([TransformerLayer(config) for _ in range(config.num_hidden_layers)])
        final_norm = norm_from_contract(config.contract.final_norm, config.hidden_size, config.dtype)
        if final_norm is not None:
            self.ln_f = final_norm
        self._has_final_norm = final_norm is not None

    def forward(self, hidden_states: Tensor) -> Tensor:
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return self.ln_f(hidden_states) if self._has_final_norm else hidden_states


class SublayerStack(Model):
    """hidden_states (num_tokens, hidden_size) to hidden_states_out of the same shape and type."""

    limits: ClassVar[frozenset[str]] = frozenset({"max_num_tokens", "opt_num_tokens"})
    architecture: ClassVar[str] = "SublayerStack"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.transformer = _Transformer(config)

    def prepare_inputs(self, **limits: Any) -> dict[str, Tensor]:
        """The network's inputs, for `forward`.

        max_num_tokens: most tokens in one run. opt_num_tokens: the number to tune for; half of that by default.
        """
        most = positive_limit(limits, "max_num_tokens", self)
        best = optimum(limits, "opt_num_tokens", most)
        hidden = self.config.hidden_size
        hidden_states = Tensor(
            name="hidden_states",
            dtype=self.config.dtype,
            shape=[-1, hidden],
            dim_range=OrderedDict([("num_tokens", [[1, best, most]]), ("hidden_size", [hidden])]),
        )
        return {"hidden_states": hidden_states}

    def forward(self, hidden_states: Tensor) -> Tensor:
        """hidden_states: (num_tokens, hidden_size). Marks `hidden_states_out`."""
        output = self.transformer(hidden_states)
        output.mark_output("hidden_states_out", self.config.dtype)
        return output
