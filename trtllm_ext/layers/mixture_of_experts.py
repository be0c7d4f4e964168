"""Mixture of experts: several feed-forwards, of which each token passes the few that a router chooses."""

from __future__ import annotations

from typing import get_args, get_type_hints

from trtllm_ext.checkpoint.contract import MixtureContract, check_activation
from trtllm_ext.errors import ConfigError
from trtllm_ext.graph import Module, Parameter, Tensor, default_net, functional, str_dtype_to_trt
from trtllm_ext.layers import plugin_roads
from trtllm_ext.layers.feed_forward import FeedForward, GatedFeedForward, check_clamp
from trtllm_ext.layers.linear import Linear
from trtllm_ext.layers.tensor_parallel import (
    check_sequence_parallel,
    check_summed,
    gather_tokens,
    shard_size,
    sum_over_ranks,
    wide,
)
from trtllm_ext.suggest import nearest

# What MixtureContract.weights may be.
ROUTING_WEIGHTS: tuple[str, ...] = get_args(get_type_hints(MixtureContract)["weights"])


class MixtureOfExperts(Module):
    """The sum over the top_k chosen experts of weight * expert(x) (Shazeer et al. 2017, arXiv 1701.06538).

    p = softmax(router(x)) over all experts; the top_k largest are chosen, the expert of lower index where two are
    equal. weights: 'softmax' takes p as it is, 'renormalized' divides it by the sum over the chosen ones.
    gated, hidden_act, bias, proj_bias, clamp, gate_offset: the form of one expert, as (Gated)FeedForward has them.
    shared_expert_intermediate_size: the width of an expert of the same form but without biases that every token
        passes too; shared_expert_gate: its output is multiplied by sigmoid(shared_expert_gate(x)).

    router: Linear (num_experts, hidden_size). fc, gate: the experts' matrices, stacked in front, (num_experts,
    ffn_hidden_size, hidden_size); proj: (num_experts, hidden_size, ffn_hidden_size); their biases likewise.

    Sparse: an expert computes the tokens that chose it and no others, so the cost is that of top_k feed-forwards. How
    many those are a run shows; the result's shape is known before.
    Router, weights and sums are float32 in every type.

    Over tp_size ranks every expert is split as a feed-forward is, by its inner dimension; the router is whole on every
    rank. The ranks' weighted sums over the chosen experts and the shared one are added once, together, then come the
    chosen experts' biases of proj.
    sequence_parallel: each rank has, and gets, its own tokens only, as many as any other; their router's values are
    computed once, and gathered like the tokens.
    Raises ConfigError for numbers that contradict each other, an unknown activation or kind of weights, when tp_size
    does not divide an expert's width, and for a tp_size above 1 without a tp_group.
    """

    def __init__(
        self,
        hidden_size: int,
        ffn_hidden_size: int,
        hidden_act: str = "silu",
        *,
        num_experts: int,
        top_k: int,
        weights: str = "softmax",
        gated: bool = True,
        bias: bool = False,
        proj_bias: bool | None = None,
        router_bias: bool = False,
        clamp: float | None = None,
        gate_offset: float = 0.0,
        shared_expert_intermediate_size: int | None = None,
        shared_expert_gate: bool = False,
        dtype: str | None = None,
        tp_group: list[int] | None = None,
        tp_size: int = 1,
        sequence_parallel: bool = False,
    ) -> None:
        super().__init__()
        self.hidden_act = check_activation(hidden_act)
        for name, size in (("num_experts", num_experts), ("top_k", top_k), ("hidden_size", hidden_size)):
            shard_size(size, 1, name)
        ffn_local = shard_size(ffn_hidden_size, tp_size, "ffn_hidden_size")
        if weights not in ROUTING_WEIGHTS:
            raise ConfigError(f"weights={weights!r} is not known. {nearest(weights, ROUTING_WEIGHTS)}")
        self.contract = MixtureContract(
            num_experts=num_experts,
            top_k=top_k,
            weights=weights,  # type: ignore[arg-type]
            router_bias=router_bias,
            shared_expert_intermediate_size=shared_expert_intermediate_size,
            shared_expert_gate=shared_expert_gate,
        )
        self.clamp, self.gate_offset = check_clamp(clamp), gate_offset
        if not gated and (clamp is not None or gate_offset):
            raise ConfigError("clamp and gate_offset belong to gated experts; set gated to True.")
        self.tp_group, self.tp_size = check_summed(tp_group, tp_size), tp_size
        self.sequence_parallel = check_sequence_parallel(sequence_parallel, tp_group, tp_size)
        self.router = Linear(hidden_size, num_experts, router_bias, dtype)
        self.fc = ExpertLinear(num_experts, hidden_size, ffn_local, bias, dtype)
        self.gate = ExpertLinear(num_experts, hidden_size, ffn_local, bias, dtype) if gated else None
        proj_bias = bias if proj_bias is None else proj_bias
        self.proj = ExpertLinear(num_experts, ffn_local, hidden_size, proj_bias, dtype)
        self.shared_expert = self._shared_expert(hidden_size, dtype)
        self.shared_expert_gate = Linear(hidden_size, 1, False, dtype) if shared_expert_gate else None

    def _shared_expert(self, hidden_size: int, dtype: str | None) -> FeedForward | None:
        width = self.contract.shared_expert_intermediate_size
        if width is None:
            return None
        shard_size(width, self.tp_size, "shared_expert_intermediate_size")
        if self.gate is None:
            return FeedForward(hidden_size, width, self.hidden_act, False, dtype, self.tp_group, self.tp_size)
        return GatedFeedForward(
            hidden_size,
            width,
            self.hidden_act,
            False,
            dtype,
            self.tp_group,
            self.tp_size,
            clamp=self.clamp,
            gate_offset=self.gate_offset,
        )

    def forward(self, hidden_states: Tensor) -> Tensor:
        """hidden_states: (..., hidden_size); the result has its shape and type."""
        # Measured against every expert on every token, float32 on two cores: with 8 experts and top_k 2 a third of its
        # time for a single token, 0.6 of it for 16, a third from 128 on; with 60 and 4 at most half; with top_k
        # 8 of 8 up to 1.1 of it.
        is_flat = hidden_states.rank() == 2
        tokens = hidden_states if is_flat else functional.flatten(hidden_states, 0, -2)
        scores = self._scores(tokens)
        if self.tp_size == 1:
            total = self._total(tokens, *self._choice(scores))
        else:
            total = self._total_over_ranks(tokens, scores)
        total = functional.cast(total, hidden_states.dtype)
        return total if is_flat else functional.view(total, functional.shape(hidden_states))

    def _scores(self, tokens: Tensor) -> Tensor:
        # Rounded to a narrow type, two close values could change places.
        return _in_float32(self.router, tokens)

    def _choice(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Each token's experts: their weights, float32 (n, top_k), and their numbers, int32."""
        renormalized = self.contract.weights == "renormalized"
        if not renormalized:
            scores = functional.softmax(scores, -1)
        values, chosen = functional.topk(scores, self.contract.top_k, -1, prefer_plugin=False)
        return functional.softmax(values, -1) if renormalized else values, chosen

    def _total(self, tokens: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """What all experts give, of split ones this rank's share: float32 (n, hidden_size)."""
        total = self._chosen_sum(tokens, weights, chosen)
        return total if self.shared_expert is None else total + self._shared(self.shared_expert, tokens)

    def _total_over_ranks(self, tokens: Tensor, scores: Tensor) -> Tensor:
        """The same of all ranks. tokens, scores: with sequence_parallel this rank's own, as the result is."""
        assert self.tp_group is not None
        group = self.tp_group if self.sequence_parallel else None
        every = scores if group is None else gather_tokens(scores, group)
        choice = self._choice(every)
        total = self._total(tokens if group is None else gather_tokens(tokens, group), *choice)
        total = sum_over_ranks(total, self.tp_group, self.sequence_parallel)
        if self.proj.bias is None:
            return total
        return total + self._chosen_biases(*(choice if group is None else self._choice(scores)))

    def _chosen_biases(self, weights: Tensor, chosen: Tensor) -> Tensor:
        """The weighted sums of the chosen experts' biases of proj, float32 (n, hidden_size)."""
        rows = functional.index_select(self.proj.bias.value, 0, functional.flatten(chosen))
        return self._weighted(rows, weights)

    def _weighted(self, rows: Tensor, weights: Tensor) -> Tensor:
        """rows: (n * top_k, hidden_size), token after token; their sums by token, float32 (n, hidden_size)."""
        by_token = functional.view(
            functional.cast(rows, "float32"), [-1, self.contract.top_k, rows.shape[-1]]
        )
        return functional.sum(by_token * functional.unsqueeze(weights, -1), 1)

    def _chosen_sum(self, tokens: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """The weighted sums of the chosen experts, float32 (n, hidden_size)."""
        places, outputs = [], []
        for expert in range(self.contract.num_experts):
            # Columns (token, which of its choices), as many as chose this expert: maybe none.
            place = functional.nonzero(functional.eq(chosen, expert))
            places.append(place)
            own = functional.index_select(tokens, 0, functional.select(place, 0, 0))
            outputs.append(self._expert(own, expert))
        rows = functional.index_select(functional.concat(outputs), 0, self._row_of_choice(chosen, places))
        return self._weighted(rows, weights)

    def _row_of_choice(self, chosen: Tensor, places: list[Tensor]) -> Tensor:
        """For each choice, token after token, its row among all experts' outputs: int32 (n * top_k,)."""
        count = functional.shape(chosen, 0) * self.contract.top_k
        columns = functional.permute(functional.concat(places, 1), (1, 0))
        # Every place of `chosen` is overwritten; it lends its shape.
        return functional.flatten(
            functional.scatter_nd(chosen, columns, functional.arange(0, count, "int32"))
        )

    def _expert(self, hidden_states: Tensor, expert: int) -> Tensor:
        fc = self.fc(hidden_states, expert)
        gate = None if self.gate is None else self.gate(hidden_states, expert)
        inner = plugin_roads.activated(fc, gate, self.hidden_act, self.clamp, self.gate_offset)
        return self.proj(inner, expert) if self.tp_size == 1 else self.proj.partial(inner, expert)

    def _shared(self, expert: FeedForward, hidden_states: Tensor) -> Tensor:
        output = expert(hidden_states) if self.tp_size == 1 else expert.partial(hidden_states)
        output = functional.cast(output, "float32")
        if self.shared_expert_gate is None:
            return output
        gate = _in_float32(self.shared_expert_gate, hidden_states)
        narrow = hidden_states.dtype != str_dtype_to_trt("float32")
        if narrow and not default_net().strongly_typed:
            # TensorRT 8.6 gives a float32 SIGMOID of a float16 network a half precision 1 and then refuses the sum.
            return output * (functional.tanh(gate * 0.5) * 0.5 + 0.5)
        return output * functional.sigmoid(gate)


class ExpertLinear(Module):
    """x W^T + b with one W and b for each expert.

    weight: (num_experts, out_features, in_features); bias: (num_experts, out_features).
    """

    def __init__(
        self,
        num_experts: int,
        in_features: int,
        out_features: int,
        bias: bool = True,
        dtype: str | None = None,
    ) -> None:
        super().__init__()
        self.weight = Parameter(shape=(num_experts, out_features, in_features), dtype=dtype or "float32")
        if bias:
            self.bias = Parameter(shape=(num_experts, out_features), dtype=dtype or "float32")
        else:
            self.register_parameter("bias", None)

    def forward(self, x: Tensor, expert: int) -> Tensor:
        """x: (..., in_features) of the layer's type; returns expert number `expert`'s (..., out_features)."""
        product = functional.matmul(x, functional.select(self.weight.value, 0, expert), transb=True)
        return product if self.bias is None else product + functional.select(self.bias.value, 0, expert)

    def partial(self, x: Tensor, expert: int) -> Tensor:
        """A rank's share of the product where in_features are split, without bias; float32 on the embedded engine."""
        weight = functional.select(self.weight.value, 0, expert)
        return functional.matmul(wide(x), wide(weight), transb=True)


def _in_float32(linear: Linear, x: Tensor) -> Tensor:
    weight = functional.cast(linear.weight.value, "float32")
    product = functional.matmul(functional.cast(x, "float32"), weight, transb=True)
    return product if linear.bias is None else product + functional.cast(linear.bias.value, "float32")
