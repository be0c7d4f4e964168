"""The decoders of BART and its kin, post-norm or pre-norm.

Their encoders bring float16 values back into range in a way of their own, which no contract says, and are left out.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from trtllm_ext.checkpoint.contract import Placement
from trtllm_ext.checkpoint.convert.architectures.spec import StackArchitecture, StackForm
from trtllm_ext.checkpoint.convert.hf_config import HfConfig
from trtllm_ext.checkpoint.form_parts import layer_norm, plain_form, residual

_OTHER_FIELDS = """
encoder_layers encoder_ffn_dim encoder_attention_heads encoder_layerdrop decoder_attention_heads decoder_layerdrop
num_hidden_layers activation_dropout scale_embedding normalize_embedding static_position_embeddings
extra_pos_embeddings max_source_positions max_target_positions decoder_vocab_size share_encoder_decoder_embeddings
classif_dropout add_bias_logits add_final_layer_norm force_bos_token_to_be_generated num_mel_bins
forced_decoder_ids apply_spec_augment mask_time_prob mask_time_length mask_time_min_masks mask_feature_prob
mask_feature_length mask_feature_min_masks median_filter_width use_weighted_layer_sum classifier_proj_size
"""


def _read(config: HfConfig, layers: range, *, placement: Placement, activation: str) -> StackForm:
    """activation: where the config says nothing."""
    # From when one class stood for all of these models; each has one of the two by now.
    config.fixed("normalize_before", placement == "pre")
    norm = layer_norm(1e-5)
    return StackForm(
        hidden_size=config.size("d_model"),
        ffn_hidden_size=config.size("decoder_ffn_dim"),
        feed_forward=plain_form(
            config.activation("activation_function", activation), residual(norm, placement=placement)
        ),
        weights={"post_layernorm": "final_layer_norm", "mlp.fc": "fc1", "mlp.proj": "fc2"},
    )


def _spec(model_type: str, prefix: str, placement: Placement, activation: str = "gelu") -> StackArchitecture:
    example: dict[str, Any] = {
        "d_model": 64,
        "decoder_ffn_dim": 160,
        "decoder_layers": 2,
        "activation_function": activation,
    }
    return StackArchitecture(
        model_type=model_type,
        prefix=prefix,
        read=partial(_read, placement=placement, activation=activation),
        layers=("model.decoder.layers", "decoder.layers"),
        beside=("self_attn", "self_attn_layer_norm", "encoder_attn", "encoder_attn_layer_norm"),
        other_fields=frozenset(_OTHER_FIELDS.split()),
        depth="decoder_layers",
        stack="decoder",
        other_classes=(f"{prefix}MTModel",) if model_type == "marian" else (),
        example=example,
        note="the decoder alone",
    )


ARCHITECTURES = (
    _spec("bart", "Bart", "post"),
    _spec("marian", "Marian", "post"),
    _spec("mbart", "MBart", "pre"),
    _spec("m2m_100", "M2M100", "pre", "relu"),
    _spec("pegasus", "Pegasus", "pre"),
    _spec("blenderbot", "Blenderbot", "pre"),
    _spec("whisper", "Whisper", "pre"),
)
