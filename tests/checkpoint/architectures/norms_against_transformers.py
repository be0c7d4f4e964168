"""A contract's norms against the model's own norm modules, bit for bit in bfloat16, on values of which eps is half."""

import copy

import ml_dtypes
import numpy as np
import torch

from trtllm_ext.checkpoint import load_checkpoint

ROWS = 64
# Of the elements: how many may round otherwise (float32's error beside a boundary), and how many do in another form.
SAME, OTHER = 0.005, 0.05


def check_norms(layer, checkpoint):
    """layer: the model's first. Its module with a norm's weights has to give what the contract says of that norm."""
    loaded = load_checkpoint(checkpoint)
    residual = loaded.config.contract.feed_forward.residual
    norms = {"post_layernorm": residual.norm}
    if residual.placement == "sandwich":
        norms = {"pre_feedforward_layernorm": residual.norm, "post_feedforward_layernorm": residual.post_norm}
    for name, norm in norms.items():
        weight = loaded.weights.get(f"transformer.layers.0.{name}.weight")
        assert (weight is not None) == norm.weight
        for module in _modules(layer, weight):
            _compare(module, norm, name)


def _modules(layer, weight):
    """Those with this weight; without one, all norms that have none."""
    if weight is None:
        found = [each for each in layer.modules() if "LayerNorm" in type(each).__name__]
        assert not any(list(each.parameters()) for each in found)
    else:
        wanted = weight.astype(np.float32)
        found = [
            each
            for each in layer.modules()
            if getattr(each, "weight", None) is not None
            and np.array_equal(each.weight.detach().numpy(), wanted)
        ]
    assert found
    return found


def _compare(module, norm, name):
    rng = np.random.default_rng(0)
    module = copy.deepcopy(module).to(torch.bfloat16)
    with torch.no_grad():
        for parameter in module.parameters():
            # Sixteenths: with an offset they are still bfloat16's own numbers.
            parameter.copy_(torch.from_numpy(rng.integers(-7, 24, parameter.shape) / 16))
    values = {key: value.detach().double().numpy() for key, value in module.named_parameters()}
    assert ("weight" in values, "bias" in values) == (norm.weight, norm.bias), name
    size = len(values["weight"]) if norm.weight else module.normalized_shape[0]
    x = (rng.normal(size=(ROWS, size)) * norm.eps**0.5).astype(ml_dtypes.bfloat16)
    with torch.no_grad():
        got = module(torch.from_numpy(x.astype(np.float32)).to(torch.bfloat16)).float().numpy()
    differing = {
        rounding: np.mean(got != formula(norm, x.astype(np.float64), values, rounding))
        for rounding in ("before_weight", "after_weight")
    }
    told = (
        f"{name}: of {type(module).__name__}'s values differ, by rounding, {differing}; the contract: {norm}"
    )
    assert differing.pop(norm.rounding) <= SAME, told
    if norm.weight and norm.kind == "rms_norm":
        assert differing.popitem()[1] >= OTHER, told


def formula(norm, x, values, rounding):
    """NormContract's, in float64."""
    if norm.kind == "layer_norm":
        x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + norm.eps)
    if rounding == "before_weight":
        x = x.astype(ml_dtypes.bfloat16).astype(np.float64)
    y = x * (values["weight"] + norm.weight_offset if norm.weight else 1) + values.get("bias", 0)
    return y.astype(ml_dtypes.bfloat16).astype(np.float32)
