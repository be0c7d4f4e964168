"""N residual feed-forward sublayers on packed tokens: the smallest useful network."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, ClassVar, Literal

from trtllm_ext.checkpoint import (
    FeedForwardContract,
    ModelConfig,
    NormContract,
    ResidualContract,
    stack_config,
)
from trtllm_ext.checkpoint.contract import Placement
from trtllm_ext.graph import Module, ModuleList, Tensor, functional
from trtllm_ext.layers import expand_streams, sum_streams
from trtllm_ext.layers.tensor_parallel import all_tokens, own_tokens
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

    placement: see `checkpoint.PLACEMENTS`; 'none' is a plain skip without any norm. For the other forms see
        `checkpoint.stack_config`, which takes a contract.
    Raises ConfigError for sizes below 1, and for unknown names.
    """
    contract = NormContract(
        kind=norm,
        eps=eps,
        bias=norm == "layer_norm",
        rounding="before_weight" if norm == "rms_norm" else "after_weight",
    )
    residual = ResidualContract(
        placement=placement,
        norm=None if placement == "none" else contract,
        post_norm=contract if placement == "sandwich" else None,
        scale=scale,
    )
    return stack_config(
        FeedForwardContract(
            gated=gated, activation=hidden_act, fc_bias=bias, proj_bias=bias, residual=residual
        ),
        hidden_size=hidden_size,
        ffn_hidden_size=ffn_hidden_size,
        num_hidden_layers=num_hidden_layers,
        final_norm=contract if final_norm else None,
        dtype=dtype,
    )


class _Transformer(Module):
    def __init__(self, config: ModelConfig, sequence_parallel: bool) -> None:
        super().__init__()
        layers = [TransformerLayer(config, sequence_parallel) for _ in range(config.num_hidden_layers)]
        self.layers = ModuleList(layers)
        connections = config.contract.feed_forward.residual.hyper_connections
        self._num_streams = 0 if connections is None else connections.num_streams
        final_norm = norm_from_contract(config.contract.final_norm, config.hidden_size, config.dtype)
        if final_norm is not None:
            self.ln_f = final_norm
        self._has_final_norm = final_norm is not None

    def forward(self, hidden_states: Tensor, attention_output: Tensor | None) -> Tensor:
        if self._num_streams:
            hidden_states = expand_streams(hidden_states, self._num_streams)
        for i, layer in enumerate(self.layers):
            given = () if attention_output is None else (functional.select(attention_output, 0, i),)
            hidden_states = layer(hidden_states, *given)
        if self._num_streams:
            hidden_states = sum_streams(hidden_states)
        return self.ln_f(hidden_states) if self._has_final_norm else hidden_states


class SublayerStack(Model):
    """hidden_states (num_tokens, hidden_size) to hidden_states_out of the same shape.

    Both have the residual stream's type; after a final norm the output has the model's.
    With the contract's attention_input there is a second input, attention_output, (num_hidden_layers, num_tokens,
    hidden_size) of the stream's type: what each layer's attention adds to the stream.

    Over several ranks (the config's mapping) all take the same inputs and give the same output, bit for bit.
    sequence_parallel: between its matrices each rank holds and computes its own tokens only (Korthikanti et al. 2022,
        arXiv 2205.05198): memory and work of norms and residuals are shared out, at the same traffic. Any number of
        tokens: where it does not divide, the last one stands in for those missing. Without effect on one rank.
    """

    limits: ClassVar[frozenset[str]] = frozenset({"max_num_tokens", "opt_num_tokens"})
    architecture: ClassVar[str] = "SublayerStack"
    has_independent_rows: ClassVar[bool] = True

    def __init__(self, config: ModelConfig, *, sequence_parallel: bool = False) -> None:
        super().__init__(config)
        self.sequence_parallel = sequence_parallel
        self.transformer = _Transformer(config, sequence_parallel)

    def prepare_inputs(self, **limits: Any) -> dict[str, Tensor]:
        """The network's inputs, for `forward`.

        max_num_tokens: most tokens in one run. opt_num_tokens: the number to tune for; half of that by default.
        """
        most = positive_limit(limits, "max_num_tokens", self)
        best = optimum(limits, "opt_num_tokens", most)
        hidden, layers = self.config.hidden_size, self.config.num_hidden_layers
        ranges: list[tuple[str, list[Any]]] = [("num_tokens", [[1, best, most]]), ("hidden_size", [hidden])]
        inputs = {
            "hidden_states": Tensor(
                name="hidden_states",
                dtype=self.config.stream_dtype,
                shape=[-1, hidden],
                dim_range=OrderedDict(ranges),
            )
        }
        if self.config.contract.attention_input:
            inputs["attention_output"] = Tensor(
                name="attention_output",
                dtype=self.config.stream_dtype,
                shape=[layers, -1, hidden],
                dim_range=OrderedDict([("num_hidden_layers", [layers]), *ranges]),
            )
        return inputs

    def forward(self, hidden_states: Tensor, attention_output: Tensor | None = None) -> Tensor:
        """Shapes as in `prepare_inputs`. Marks `hidden_states_out`."""
        if self.sequence_parallel and self.config.mapping.tp_size > 1:
            output = self._dealt_out(hidden_states, attention_output)
        else:
            output = self.transformer(hidden_states, attention_output)
        has_final_norm = self.config.contract.final_norm is not None
        output.mark_output(
            "hidden_states_out", self.config.dtype if has_final_norm else self.config.stream_dtype
        )
        return output

    def _dealt_out(self, hidden_states: Tensor, attention_output: Tensor | None) -> Tensor:
        """The whole output, of which each rank computes the part of its own tokens."""
        mapping = self.config.mapping
        self.num_tokens = functional.shape(hidden_states, 0)  # taps are made whole with it
        own = own_tokens(hidden_states, mapping.tp_size, mapping.tp_rank)
        given = attention_output
        if given is not None:
            given = own_tokens(given, mapping.tp_size, mapping.tp_rank, dim=1)
        output = self.transformer(own, given)
        return all_tokens(output, mapping.tp_group, self.num_tokens)
