"""MixtureOfExperts with the weights of transformers' own modules, which say how three architectures mean them."""

import numpy as np
import pytest
from sublayer_formulas import run_module

from trtllm_ext.layers import MixtureOfExperts

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

BUDGET_S = 8

HIDDEN, FFN, EXPERTS, TOP_K, SHARED = 32, 48, 6, 2, 40
COMMON = {"hidden_size": HIDDEN, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 8}
X = np.random.default_rng(5).normal(size=(2, 9, HIDDEN)).astype(np.float32)


def with_random_weights(module):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, 0.2, generator=generator)
    return module.eval()


def fill(layer, values):
    parameters = dict(layer.named_parameters())
    assert parameters.keys() == values.keys()
    for name, value in values.items():
        parameters[name].value = np.ascontiguousarray(value.detach().numpy())


def assert_same(layer, module):
    with torch.no_grad():
        reference = module(torch.from_numpy(X))
    reference = (reference[0] if isinstance(reference, tuple) else reference).numpy()
    error = np.abs(run_module(layer, {"x": X}) - reference).max()
    assert error <= 1e-5 * np.abs(reference).max()


def halves(block):
    """The experts' weights of Mixtral and Qwen: in the first matrix the activated rows, then the linear ones."""
    fc, gate = block.experts.gate_up_proj.chunk(2, dim=1)
    return {
        "router.weight": block.gate.weight,
        "fc.weight": fc,
        "gate.weight": gate,
        "proj.weight": block.experts.down_proj,
    }


def mixture(**arguments):
    return MixtureOfExperts(HIDDEN, FFN, num_experts=EXPERTS, top_k=TOP_K, **arguments)


def test_mixtral():
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    config = transformers.MixtralConfig(
        **COMMON, intermediate_size=FFN, num_local_experts=EXPERTS, num_experts_per_tok=TOP_K
    )
    block = with_random_weights(MixtralSparseMoeBlock(config))
    layer = mixture(hidden_act="silu", weights="renormalized")
    fill(layer, halves(block))
    assert_same(layer, block)


@pytest.mark.parametrize("renormalized", [False, True])
def test_qwen2_moe(renormalized):
    from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock

    config = transformers.Qwen2MoeConfig(
        **COMMON,
        moe_intermediate_size=FFN,
        shared_expert_intermediate_size=SHARED,
        num_experts=EXPERTS,
        num_experts_per_tok=TOP_K,
        norm_topk_prob=renormalized,
    )
    block = with_random_weights(Qwen2MoeSparseMoeBlock(config))
    weights = "renormalized" if renormalized else "softmax"
    layer = mixture(
        hidden_act="silu", weights=weights, shared_expert_intermediate_size=SHARED, shared_expert_gate=True
    )
    shared = {
        "shared_expert.fc.weight": block.shared_expert.gate_proj.weight,
        "shared_expert.gate.weight": block.shared_expert.up_proj.weight,
        "shared_expert.proj.weight": block.shared_expert.down_proj.weight,
        "shared_expert_gate.weight": block.shared_expert_gate.weight,
    }
    fill(layer, {**halves(block), **shared})
    assert_same(layer, block)


def test_gpt_oss():
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssMLP

    limit = 0.7  # the checkpoints' 7 would hardly touch such small values
    config = transformers.GptOssConfig(
        **COMMON,
        intermediate_size=FFN,
        num_local_experts=EXPERTS,
        num_experts_per_tok=TOP_K,
        swiglu_limit=limit,
    )
    block = with_random_weights(GptOssMLP(config))
    assert (block.experts.limit, block.experts.alpha) == (limit, 1.702)
    layer = mixture(
        hidden_act="quick_gelu",
        weights="renormalized",
        bias=True,
        router_bias=True,
        clamp=limit,
        gate_offset=1.0,
    )
    experts = block.experts
    # Matrices stand (in, out), the activated and the linear columns by turns.
    turned, bias = experts.gate_up_proj.transpose(1, 2), experts.gate_up_proj_bias
    values = {"router.weight": block.router.weight, "router.bias": block.router.bias}
    for name, part in (("fc", slice(0, None, 2)), ("gate", slice(1, None, 2))):
        values[f"{name}.weight"], values[f"{name}.bias"] = turned[:, part], bias[:, part]
    values |= {"proj.weight": experts.down_proj.transpose(1, 2), "proj.bias": experts.down_proj_bias}
    fill(layer, values)
    assert_same(layer, block)
