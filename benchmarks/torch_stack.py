"""A SublayerStack in PyTorch, from its contract and weights: what torch.onnx's graph is made of, and a reference."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from trtllm_ext.checkpoint import FeedForwardContract, ModelConfig, NormContract, ResidualContract
from trtllm_ext.checkpoint.weights import feed_forward_norm_names

ACTIVATIONS = {
    "relu": nnf.relu,
    "gelu_erf": nnf.gelu,
    "gelu_tanh": lambda x: nnf.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": nnf.silu,
    "squared_relu": lambda x: nnf.relu(x) ** 2,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "identity": lambda x: x,
}


class Weights(nn.Module):
    """Weights of one layer by their dotted names."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = nn.ParameterDict({name.replace(".", "/"): value for name, value in weights.items()})

    def __getitem__(self, name: str) -> Tensor:
        value: Tensor = self.values[name.replace(".", "/")]
        return value

    def get(self, name: str) -> Tensor | None:
        return self[name] if name.replace(".", "/") in self.values else None

    def linear(self, x: Tensor, name: str, expert: int | None = None) -> Tensor:
        weight, bias = self[f"{name}.weight"], self.get(f"{name}.bias")
        if expert is not None:
            weight, bias = weight[expert], None if bias is None else bias[expert]
        return nnf.linear(x, weight, bias)


def normed(x: Tensor, form: NormContract, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    weight = x.new_ones(x.shape[-1]) if weight is None else weight
    if form.kind == "layer_norm":
        return nnf.layer_norm(x, x.shape[-1:], weight + form.weight_offset, bias, form.eps)
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + form.eps) * (weight + form.weight_offset)


class TorchLayer(nn.Module):
    """One residual feed-forward sublayer."""

    def __init__(self, form: FeedForwardContract, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.form, self.weights = form, Weights(weights)
        self.norms = feed_forward_norm_names(form.residual)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.form.residual
        if residual.hyper_connections is not None:
            read, mixed, beta = self._connections(x)
            return mixed + beta * self._contribution(read).unsqueeze(-2)
        total = residual.skip_scale * x + self._contribution(x)
        return self._norm(total, 0) if residual.placement == "post" else total

    def _contribution(self, x: Tensor) -> Tensor:
        residual: ResidualContract = self.form.residual
        x = self._norm(x, 0) if residual.placement in ("pre", "sandwich") else x
        x = self._mixture(x) if self.form.mixture is not None else self._feed_forward(x, "mlp")
        x = self._norm(x, 0) if residual.placement == "branch" else x
        x = self._norm(x, 1) if residual.placement == "sandwich" else x
        gate = self.weights.get("mlp_scale.weight")
        if gate is not None:
            x = x * (torch.tanh(gate) if residual.gate == "tanh" else gate)
        return x * residual.scale

    def _norm(self, x: Tensor, which: int) -> Tensor:
        name = self.norms[which]
        form = self.form.residual.post_norm if which else self.form.residual.norm
        assert form is not None
        return normed(x, form, self.weights.get(f"{name}.weight"), self.weights.get(f"{name}.bias"))

    def _feed_forward(self, x: Tensor, prefix: str, expert: int | None = None) -> Tensor:
        form = self.form
        inner = self.weights.linear(x, f"{prefix}.fc", expert)
        inner = ACTIVATIONS[form.activation](inner if form.clamp is None else inner.clamp(max=form.clamp))
        if form.gated:
            gate = self.weights.linear(x, f"{prefix}.gate", expert)
            gate = gate if form.clamp is None else gate.clamp(-form.clamp, form.clamp)
            inner = inner * (gate + form.gate_offset)
        if form.inner_norm is not None:
            name = f"{prefix}.inner_layernorm"
            inner = normed(
                inner, form.inner_norm, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")
            )
        return self.weights.linear(inner, f"{prefix}.proj", expert)

    def _mixture(self, x: Tensor) -> Tensor:
        mixture = self.form.mixture
        assert mixture is not None
        probabilities = torch.softmax(self.weights.linear(x, "mlp.router"), -1)
        best, chosen = torch.topk(probabilities, mixture.top_k, -1)
        if mixture.weights == "renormalized":
            best = best / best.sum(-1, keepdim=True)
        shares = torch.zeros_like(probabilities).scatter(-1, chosen, best)
        total = torch.zeros_like(x)
        for expert in range(mixture.num_experts):
            total = total + shares[..., expert : expert + 1] * self._feed_forward(x, "mlp", expert)
        if mixture.shared_expert_intermediate_size is not None:
            shared = self._feed_forward(x, "mlp.shared_expert")
            if mixture.shared_expert_gate:
                shared = shared * torch.sigmoid(self.weights.linear(x, "mlp.shared_expert_gate"))
            total = total + shared
        return total

    def _connections(self, streams: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the sublayer reads, the streams mixed, and the factors of what it gives."""
        contract = self.form.residual.hyper_connections
        assert contract is not None
        n, w = contract.num_streams, {name[16:]: name for name in self._names() if "connections" in name}
        value = {name: self.weights[full] for name, full in w.items()}
        if contract.kind == "manifold":
            flat = streams.flatten(-2)
            flat = flat * torch.rsqrt((flat * flat).mean(-1, keepdim=True) + contract.eps)
            parts = {
                name: value[f"{name}_scale"] * nnf.linear(flat, value[f"{name}_weight"])
                + value[f"{name}_bias"].flatten()
                for name in ("pre", "post", "mixing")
            }
            mixing = torch.exp(parts["mixing"].unflatten(-1, (n, n)))
            for _ in range(contract.sinkhorn_iterations):
                mixing = mixing / mixing.sum(-2, keepdim=True)
                mixing = mixing / mixing.sum(-1, keepdim=True)
            read = (torch.sigmoid(parts["pre"]).unsqueeze(-2) @ streams).squeeze(-2)
            return read, mixing @ streams, 2 * torch.sigmoid(parts["post"]).unsqueeze(-1)
        alpha, beta = value["static_alpha"], value["static_beta"].unsqueeze(-1)
        if contract.kind == "dynamic":
            form = NormContract(kind=contract.norm, eps=contract.eps, bias=contract.norm == "layer_norm")
            state = normed(streams, form, value["norm_weight"], value.get("norm_bias"))
            alpha = alpha + value["alpha_scale"] * torch.tanh(nnf.linear(state, value["dynamic_alpha"]))
            beta = beta + value["beta_scale"] * torch.tanh(nnf.linear(state, value["dynamic_beta"]))
        mixed = alpha.transpose(-1, -2) @ streams
        return mixed[..., 0, :], mixed[..., 1:, :], beta

    def _names(self) -> list[str]:
        return [name.replace("/", ".") for name in self.weights.values]


class TorchStack(nn.Module):
    """hidden_states (num_tokens, hidden_size) to the stream after all layers; float32."""

    def __init__(self, config: ModelConfig, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        form = config.contract.feed_forward
        self.streams = form.residual.hyper_connections.num_streams if form.residual.hyper_connections else 0
        self.layers = nn.ModuleList()
        for i in range(config.num_hidden_layers):
            prefix = f"transformer.layers.{i}."
            own = {
                name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)
            }
            self.layers.append(TorchLayer(form, own))

    def forward(self, hidden_states: Tensor) -> Tensor:
        x = hidden_states
        if self.streams:
            x = x.unsqueeze(-2).expand(-1, self.streams, -1)
        for layer in self.layers:
            x = layer(x)
        return x.sum(-2) if self.streams else x
