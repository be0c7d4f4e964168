"""Image encoders: pre-norm layers with and without LayerScale, and CLIP's and SigLIP's two encoders."""

import pytest
import transformers as hf
from stack_against_transformers import Case, cases_in_types, check, saved_model

from trtllm_ext.checkpoint import convert
from trtllm_ext.errors import CheckpointError

BUDGET_S = 8

IMAGE = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 8,
    "patch_size": 4,
}
WIDE = {**IMAGE, "intermediate_size": 40}
TEXT = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
PLAIN = {
    "gated": False,
    "activation": "gelu_erf",
    "fc_bias": True,
    "proj_bias": True,
    "residual.placement": "pre",
}
SCALED = {**PLAIN, "residual.gate": "channel"}
GATED = {**SCALED, "gated": True, "activation": "silu"}
# config.json of vit-base-patch16-224 and of dinov2-giant, in small.
VIT_RELEASE = {
    "architectures": ["ViTForImageClassification"],
    "attention_probs_dropout_prob": 0.0,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "id2label": {"0": "tench", "1": "goldfish"},
    "initializer_range": 0.02,
    "label2id": {"goldfish": 1, "tench": 0},
    "layer_norm_eps": 1e-12,
    "model_type": "vit",
    "num_channels": 3,
    "qkv_bias": True,
    "transformers_version": "4.13.0.dev0",
    **WIDE,
}
DINOV2_GIANT = {
    "architectures": ["Dinov2Model"],
    "attention_probs_dropout_prob": 0.0,
    "drop_path_rate": 0.0,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-06,
    "layerscale_value": 1.0,
    "mlp_ratio": 4,
    "model_type": "dinov2",
    "num_channels": 3,
    "qkv_bias": True,
    "torch_dtype": "float32",
    "transformers_version": "4.32.0.dev0",
    "use_swiglu_ffn": True,
    **IMAGE,
}
# As clip-vit-large-patch14 has it: text_config repeats what text_config_dict says, and that is what counts.
CLIP_RELEASE = {
    "_commit_hash": None,
    "architectures": ["CLIPModel"],
    "initializer_factor": 1.0,
    "logit_scale_init_value": 2.6592,
    "model_type": "clip",
    "projection_dim": 768,
    "text_config": {
        "_name_or_path": "",
        "add_cross_attention": False,
        "architectures": None,
        "attention_dropout": 0.0,
        "chunk_size_feed_forward": 0,
        "cross_attention_hidden_size": None,
        "dropout": 0.0,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-05,
        "model_type": "clip_text_model",
        "pruned_heads": {},
        "torch_dtype": None,
        **TEXT,
    },
    "text_config_dict": {**TEXT, "projection_dim": 768},
    "torch_dtype": "float32",
    "transformers_version": None,
    "vision_config": {**WIDE, "dropout": 0.0, "hidden_act": "quick_gelu", "model_type": "clip_vision_model"},
    "vision_config_dict": {**WIDE, "projection_dim": 768},
}


def layers_of(*path):
    def layers(model):
        for name in path:
            model = getattr(model, name)
        return model

    return layers


def vision(model, config, layers, **changes):
    return Case(
        **{
            "name": model,
            "config": config,
            "model": getattr(hf, model),
            "layers": layers_of(*layers.split(".")),
            "attention": "attention",
            **changes,
        }
    )


def scaled(model, config, layers, **changes):
    return vision(
        model,
        config,
        layers,
        contribution=lambda layer, output: layer.layer_scale1(output),
        **{"expect": SCALED, **changes},
    )


def tower(model, config, stack, **changes):
    """One of a model's two encoders."""
    layers = changes.pop("layers", f"{stack}_model.encoder.layers")
    return vision(
        model,
        config,
        layers,
        **{
            "name": f"{model}-{stack}",
            "attention": "self_attn",
            "options": {"stack": stack},
            "call": lambda layer, x: layer(x, attention_mask=None),
            **changes,
        },
    )


def both(name, **changes):
    return getattr(hf, f"{name}Config")(text_config={**TEXT, **changes}, vision_config={**WIDE, **changes})


def dino(name, layers, **changes):
    config = getattr(hf, f"{name}Config")(**{**IMAGE, **changes})
    return scaled(f"{name}Model", config, layers, expect=GATED if changes.get("use_swiglu_ffn") else SCALED)


DINOV2_RATIO = dino("Dinov2", "encoder.layer", mlp_ratio=3)
GIANT = dino("Dinov2", "encoder.layer", use_swiglu_ffn=True)
GIANT.name, GIANT.whole_config = "Dinov2Giant", DINOV2_GIANT
REGISTERS = dino("Dinov2WithRegisters", "encoder.layer", use_swiglu_ffn=True)
DINOV3 = hf.DINOv3ViTConfig(**WIDE, hidden_act="silu", use_gated_mlp=True)


@cases_in_types(
    vision("ViTModel", hf.ViTConfig(**WIDE), "layers", expect={**PLAIN, "residual.norm.eps": 1e-12}),
    vision("ViTForImageClassification", hf.ViTConfig(**WIDE), "vit.layers", whole_config=VIT_RELEASE),
    vision("ViTForMaskedImageModeling", hf.ViTConfig(**WIDE, layer_norm_eps=1e-3), "vit.layers"),
    vision("DeiTForImageClassificationWithTeacher", hf.DeiTConfig(**WIDE), "deit.layers"),
    vision(
        "BeitForImageClassification",
        hf.BeitConfig(**WIDE),
        "beit.layers",
        contribution=lambda layer, output: layer.lambda_1 * output,
        expect=SCALED,
    ),
    vision("BeitModel", hf.BeitConfig(**WIDE, layer_scale_init_value=0.0), "layers", expect=PLAIN),
    DINOV2_RATIO,
    scaled("Dinov2ForImageClassification", hf.Dinov2Config(**IMAGE), "dinov2.encoder.layer"),
    GIANT,
    REGISTERS,
    scaled("DINOv3ViTModel", DINOV3, "model.layer", expect=GATED),
    scaled(
        "DINOv3ViTBackbone",
        hf.DINOv3ViTConfig(**WIDE, mlp_bias=False),
        "model.layer",
        expect={"fc_bias": False, "proj_bias": False, "residual.gate": "channel"},
    ),
    tower("CLIPModel", both("CLIP"), "text", expect={"activation": "quick_gelu"}, whole_config=CLIP_RELEASE),
    tower("CLIPModel", both("CLIP", hidden_act="gelu"), "vision", expect={"activation": "gelu_erf"}),
    tower("CLIPTextModel", hf.CLIPTextConfig(**TEXT), "text", layers="encoder.layers"),
    tower("CLIPVisionModelWithProjection", hf.CLIPVisionConfig(**WIDE), "vision"),
    tower("SiglipModel", both("Siglip"), "vision", expect={"activation": "gelu_tanh"}),
    tower("SiglipTextModel", hf.SiglipTextConfig(**TEXT), "text", layers="encoder.layers"),
)
def test_the_stack_is_the_models_own_layers(case, tmp_path, dtype):
    check(case, tmp_path, dtype)


def test_a_width_that_the_ratio_does_not_give_is_refused_with_both_shapes(tmp_path):
    saved_model(DINOV2_RATIO, tmp_path / "model", "float32")
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text().replace('"mlp_ratio": 3', '"mlp_ratio": 4'))
    with pytest.raises(
        CheckpointError, match=r"mlp\.fc1\.weight.*\(72, 24\).*\(96, 24\)|\(96, 24\).*\(72, 24\)"
    ):
        convert(tmp_path / "model", tmp_path / "checkpoint")


def test_the_stack_has_to_be_one_of_the_models(tmp_path):
    case = tower("CLIPModel", both("CLIP"), "text")
    saved_model(case, tmp_path / "model", "float32")
    with pytest.raises(
        CheckpointError, match="stack='image' is not one of this model's; it has 'text', 'vision'"
    ):
        convert(tmp_path / "model", tmp_path / "checkpoint", stack="image")
