"""A contract in formulas, for tables and for `inspect`. x is the residual stream, F the feed-forward sublayer."""

from __future__ import annotations

from trtllm_ext.checkpoint.contract import Contract, FeedForwardContract, NormContract, ResidualContract


def feed_forward_formula(form: FeedForwardContract) -> str:
    """What F computes: 'proj(silu(fc(x)) * gate(x))'. Biases are in `bias_text`, experts in `mixture_text`."""
    fc, gate = "fc(x)", "gate(x)"
    if form.clamp is not None:
        fc, gate = f"min(fc(x), {form.clamp:g})", f"clip(gate(x), {form.clamp:g})"
    if form.gate_offset:
        gate = f"({gate} + {form.gate_offset:g})"
    inner = f"{form.activation}({fc})" + (f" * {gate}" if form.gated else "")
    return f"proj({f'norm({inner})' if form.inner_norm is not None else inner})"


def bias_text(form: FeedForwardContract) -> str:
    """Which matrices have a bias: 'all', 'none', 'proj only' or 'all but proj'."""
    if form.fc_bias == form.proj_bias:
        return "all" if form.fc_bias else "none"
    return "all but proj" if form.fc_bias else "proj only"


def mixture_text(form: FeedForwardContract) -> str:
    """The mixture of experts, or '' for a single feed-forward."""
    mixture = form.mixture
    if mixture is None:
        return ""
    text = f"top {mixture.top_k} of {mixture.num_experts} experts, {mixture.weights} weights"
    if mixture.router_bias:
        text += ", router with bias"
    if mixture.shared_expert_intermediate_size is not None:
        text += ", gated shared expert" if mixture.shared_expert_gate else ", shared expert"
    return text


def norm_text(norm: NormContract | None) -> str:
    """'LayerNorm', 'LayerNorm without bias', 'RMSNorm (1 + weight)', with the rounding where it is particular."""
    if norm is None:
        return "none"
    if not norm.weight:
        return {"layer_norm": "LayerNorm", "rms_norm": "RMSNorm"}[norm.kind] + " without weights"
    offset = f" ({norm.weight_offset:g} + weight)" if norm.weight_offset else ""
    if norm.kind == "layer_norm":
        return "LayerNorm" + offset + ("" if norm.bias else " without bias")
    return "RMSNorm" + offset + (", rounded before weight" if norm.rounding == "before_weight" else "")


def residual_formula(residual: ResidualContract, contract: Contract | None = None) -> str:
    """What becomes of the stream: 'x + 0.22 F(norm(x))'.

    contract: of the network that computes it. Of an attention at F's side there is then what that network has of it:
    nothing, or the `given` contribution of attention_input. Without a contract the formula is the whole model's.
    """
    branch = {
        "none": "F(x)",
        "pre": "F(norm(x))",
        "post": "F(x)",
        "branch": "norm(F(x))",
        "sandwich": "post_norm(F(norm(x)))",
    }[residual.placement]
    branch = {"none": "", "scalar": "g ", "tanh": "tanh(g) ", "channel": "g[channel] "}[
        residual.gate
    ] + branch
    if residual.scale != 1.0:
        branch = f"{residual.scale:g} {branch}"
    if residual.hyper_connections is not None:
        connections = residual.hyper_connections
        return f"{connections.num_streams} streams, {connections.kind} hyper-connections around {branch}"
    beside = {"none": "", "shared_norm": "attention(norm(x)) + ", "separate_norms": "attention(norm_a(x)) + "}
    before = beside[residual.parallel]
    given = contract is not None and contract.attention_input
    if contract is not None and residual.parallel != "none":
        before = "given + " if given else ""
    skip = "x" if residual.skip_scale == 1.0 else f"{residual.skip_scale:g} x"
    total = f"{skip} + {before}{branch}"
    if residual.placement == "post":
        total = f"norm({total})"
    if residual.stream_dtype != "model":
        total += f", {residual.stream_dtype} stream"
    if given and residual.parallel == "none":
        total += ", x being the stream with given added"
    return total + (", float16 sums clamped" if residual.clamp == "float16" else "")
