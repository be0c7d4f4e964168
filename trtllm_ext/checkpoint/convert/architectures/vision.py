"""Transformers over image patches, and CLIP's and SigLIP's text beside them: LayerNorm before, often LayerScale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from trtllm_ext.checkpoint.contract import FeedForwardContract
from trtllm_ext.checkpoint.convert.architectures.spec import (
    HEADS,
    Source,
    StackArchitecture,
    StackForm,
    half,
    named,
)
from trtllm_ext.checkpoint.convert.hf_config import HfConfig
from trtllm_ext.checkpoint.form_parts import gated_form, layer_norm, plain_form, residual

# Fields about the other parts of these models, and about training.
_IMAGE = "image_size patch_size num_channels encoder_stride"
_POOLER = "pooler_output_size pooler_act"
_BACKBONE = "apply_layernorm reshape_hidden_states out_features out_indices stage_names drop_path_rate"
_BEIT = """
use_mask_token use_absolute_position_embeddings use_relative_position_bias use_shared_relative_position_bias
use_mean_pooling use_auxiliary_head auxiliary_loss_weight auxiliary_channels auxiliary_num_convs
auxiliary_concat_input semantic_loss_ignore_index segmentation_indices pool_scales add_fpn
"""
_DINO = "use_mask_token layerscale_value num_register_tokens"
_DINOV3 = "query_bias key_bias value_bias proj_bias pos_embed_shift pos_embed_jitter pos_embed_rescale"
_TOWERS = """
projection_dim projection_size vision_use_head logit_scale_init_value chunk_size_feed_forward pruned_heads
"""


def _fields(*lists: str) -> frozenset[str]:
    return frozenset(" ".join(lists).split())


_EXAMPLE = {"hidden_size": 64, "num_hidden_layers": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-6}
_WIDE_EXAMPLE = {**_EXAMPLE, "intermediate_size": 160}

VIT_WEIGHTS = {
    "post_layernorm": "layernorm_after",
    "mlp.fc": "intermediate.dense",
    "mlp.proj": "output.dense",
}


def _form(
    config: HfConfig,
    feed_forward: FeedForwardContract,
    weights: Mapping[str, str | Source],
    width: int | None = None,
) -> StackForm:
    return StackForm(
        hidden_size=config.size("hidden_size"),
        ffn_hidden_size=config.size("intermediate_size") if width is None else width,
        feed_forward=feed_forward,
        weights=weights,
    )


def _read_vit(config: HfConfig, layers: range) -> StackForm:
    norm = layer_norm(config.eps("layer_norm_eps", 1e-12))
    return _form(config, plain_form(config.activation("hidden_act", "gelu"), residual(norm)), VIT_WEIGHTS)


def _read_beit(config: HfConfig, layers: range) -> StackForm:
    """LayerScale is there unless its initial value is 0."""
    scaled = config.number("layer_scale_init_value", 0.1) > 0
    norm = residual(layer_norm(config.eps("layer_norm_eps", 1e-12)), gate="channel" if scaled else "none")
    form = plain_form(config.activation("hidden_act", "gelu"), norm)
    return _form(config, form, {**VIT_WEIGHTS, "mlp_scale": named("lambda_2")})


_DINO_WEIGHTS: dict[str, str | Source] = {
    "post_layernorm": "norm2",
    "mlp_scale": named("layer_scale2.lambda1"),
}


def _read_dinov2(config: HfConfig, layers: range) -> StackForm:
    """mlp_ratio gives the width; of which the gated form, whatever hidden_act says, has two thirds."""
    width = int(config.size("hidden_size") * config.number("mlp_ratio", 4))
    norm = residual(layer_norm(config.eps("layer_norm_eps", 1e-6)), gate="channel")
    activation = config.activation("hidden_act", "gelu")
    if not config.flag("use_swiglu_ffn", False):
        weights = {**_DINO_WEIGHTS, "mlp.fc": "mlp.fc1", "mlp.proj": "mlp.fc2"}
        return _form(config, plain_form(activation, norm), weights, width)
    fused = {"mlp.fc": half("mlp.weights_in", 0), "mlp.gate": half("mlp.weights_in", 1)}
    weights = {**_DINO_WEIGHTS, **fused, "mlp.proj": "mlp.weights_out"}
    return _form(config, gated_form("silu", norm, bias=True), weights, (int(width * 2 / 3) + 7) // 8 * 8)


def _read_dinov3(config: HfConfig, layers: range) -> StackForm:
    norm = residual(layer_norm(config.eps("layer_norm_eps", 1e-5)), gate="channel")
    gated = config.flag("use_gated_mlp", False)
    form = (gated_form if gated else plain_form)(
        config.activation("hidden_act", "gelu"), norm, bias=config.flag("mlp_bias", True)
    )
    names = {"mlp.fc": "mlp.gate_proj", "mlp.gate": "mlp.up_proj"} if gated else {"mlp.fc": "mlp.up_proj"}
    return _form(config, form, {**_DINO_WEIGHTS, **names, "mlp.proj": "mlp.down_proj"})


def _read_clip(config: HfConfig, layers: range, *, usual: Mapping[str, Any]) -> StackForm:
    """usual: what a config that leaves a field out means."""
    norm = layer_norm(config.eps("layer_norm_eps", usual["layer_norm_eps"]))
    return StackForm(
        hidden_size=config.size("hidden_size", usual["hidden_size"]),
        ffn_hidden_size=config.size("intermediate_size", usual["intermediate_size"]),
        feed_forward=plain_form(config.activation("hidden_act", usual["hidden_act"]), residual(norm)),
        weights={"post_layernorm": "layer_norm2", "mlp.fc": "mlp.fc1", "mlp.proj": "mlp.fc2"},
    )


VIT = StackArchitecture(
    model_type="vit",
    prefix="ViT",
    read=_read_vit,
    layers=("encoder.layer", "vit.encoder.layer"),
    beside=("attention", "layernorm_before"),
    other_fields=_fields(_IMAGE, _POOLER),
    example=_WIDE_EXAMPLE,
    other_classes=("ViTForMaskedImageModeling",),
)
DEIT = replace(
    VIT,
    model_type="deit",
    prefix="DeiT",
    layers=("encoder.layer", "deit.encoder.layer"),
    other_classes=("DeiTForMaskedImageModeling", "DeiTForImageClassificationWithTeacher"),
)
BEIT = replace(
    VIT,
    model_type="beit",
    prefix="Beit",
    read=_read_beit,
    layers=("encoder.layer", "beit.encoder.layer"),
    beside=("attention", "layernorm_before", "lambda_1", "relative_position_bias"),
    other_fields=_fields(_IMAGE, _BACKBONE, _BEIT),
    other_classes=("BeitForMaskedImageModeling", "BeitForSemanticSegmentation", "BeitBackbone"),
    example={**_WIDE_EXAMPLE, "layer_scale_init_value": 0.1},
)
DINOV2 = StackArchitecture(
    model_type="dinov2",
    prefix="Dinov2",
    read=_read_dinov2,
    layers=("encoder.layer", "dinov2.encoder.layer"),
    beside=("norm1", "attention", "layer_scale1"),
    other_fields=_fields(_IMAGE, _BACKBONE, _DINO),
    example={**_EXAMPLE, "mlp_ratio": 4, "use_swiglu_ffn": True},
    other_classes=("Dinov2Backbone",),
    note="use_swiglu_ffn: gate and up stored as one matrix, gate first; plain without it",
)
DINOV2_WITH_REGISTERS = replace(
    DINOV2,
    model_type="dinov2_with_registers",
    prefix="Dinov2WithRegisters",
    layers=("encoder.layer", "dinov2_with_registers.encoder.layer"),
    other_classes=("Dinov2WithRegistersBackbone",),
)
DINOV3_VIT = StackArchitecture(
    model_type="dinov3_vit",
    prefix="DINOv3ViT",
    read=_read_dinov3,
    layers=("layer", "model.layer"),
    beside=("norm1", "attention", "layer_scale1"),
    other_fields=_fields(_IMAGE, _BACKBONE, _DINO, _DINOV3),
    example={**_WIDE_EXAMPLE, "use_gated_mlp": True},
    other_classes=("DINOv3ViTBackbone",),
    note="plain without use_gated_mlp",
)


def _towers(
    model_type: str, prefix: str, usual: Mapping[str, Mapping[str, Any]], configs: tuple[str, ...]
) -> tuple[StackArchitecture, ...]:
    """The text and the image encoder of a model that has both, or of which one was saved alone.

    usual: what stands for fields that are missing, by stack. configs: the objects with a stack's fields, by precedence,
    with {} for the stack's name.
    """
    return tuple(
        StackArchitecture(
            model_type=model_type,
            prefix=prefix,
            read=partial(_read_clip, usual=usual[stack]),
            layers=(f"{stack}_model.encoder.layers", "encoder.layers"),
            beside=("self_attn", "layer_norm1"),
            other_fields=_fields(_IMAGE, _TOWERS),
            depth_unless_given=usual[stack]["num_hidden_layers"],
            stack=stack,
            nested_config=tuple(config.format(stack) for config in configs),
            heads=HEADS if stack == "vision" else tuple(head for head in HEADS if "Image" not in head),
            example={**usual[stack]},
            other_classes=tuple(f"{prefix}{stack.title()}Model{end}" for end in ("", "WithProjection")),
        )
        for stack in ("text", "vision")
    )


_CLIP = {"num_hidden_layers": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_SIGLIP = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
CLIP = _towers(
    "clip",
    "CLIP",
    {
        "text": {"hidden_size": 512, "intermediate_size": 2048, **_CLIP},
        "vision": {"hidden_size": 768, "intermediate_size": 3072, **_CLIP},
    },
    ("{}_config_dict", "{}_config"),
)
SIGLIP = _towers("siglip", "Siglip", {"text": _SIGLIP, "vision": _SIGLIP}, ("{}_config",))

ARCHITECTURES = (VIT, DEIT, BEIT, DINOV2, DINOV2_WITH_REGISTERS, DINOV3_VIT, *CLIP, *SIGLIP)
