"""The decoders of BART's kin: post-norm and pre-norm, with attention to themselves and to the encoder."""

import pytest
import torch
import transformers as hf
from stack_against_transformers import Case, Given, cases_in_types, check, saved_model

from trtllm_ext.checkpoint import convert
from trtllm_ext.errors import CheckpointError

BUDGET_S = 6

SIZES = {
    "vocab_size": 50,
    "d_model": 24,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 40,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}
PRE = {"residual.placement": "pre", "activation": "gelu_erf", "gated": False}
POST = {**PRE, "residual.placement": "post"}
# config.json of bart-large, in small.
BART_RELEASE = {
    "_num_labels": 3,
    "activation_dropout": 0.1,
    "activation_function": "gelu",
    "add_bias_logits": False,
    "add_final_layer_norm": False,
    "architectures": ["BartForConditionalGeneration"],
    "attention_dropout": 0.1,
    "classif_dropout": 0.1,
    "classifier_dropout": 0.0,
    "decoder_layerdrop": 0.0,
    "dropout": 0.1,
    "early_stopping": True,
    "encoder_layerdrop": 0.0,
    "gradient_checkpointing": False,
    "init_std": 0.02,
    "is_encoder_decoder": True,
    "max_position_embeddings": 1024,
    "model_type": "bart",
    "no_repeat_ngram_size": 3,
    "normalize_before": False,
    "normalize_embedding": True,
    "num_beams": 4,
    "num_hidden_layers": 3,
    "scale_embedding": False,
    "use_cache": True,
    **SIZES,
}


def both_attentions(layer, output):
    """A layer's attention to itself gives `output`, and its attention to the encoder a third of it."""
    layer.encoder_attn = Given(output[None] / 3, layer.self_attn.wrap)
    return output + output / 3


def no_attention_norms(layer, output):
    """A post-norm layer normalises the stream after attention too, which is not its feed-forward's business."""
    layer.self_attn_layer_norm = torch.nn.Identity()
    return output


def decoder(name, model, expect=PRE, **changes):
    fields = {key: value for key, value in changes.items() if key not in Case.__dataclass_fields__}
    case = {key: value for key, value in changes.items() if key in Case.__dataclass_fields__}
    return Case(
        **{
            "name": name,
            "config": getattr(hf, f"{name}Config")(**{**SIZES, **fields}),
            "model": getattr(hf, model),
            "layers": lambda model: model.model.decoder.layers,
            "contribution": both_attentions,
            "call": lambda layer, x: layer(x, encoder_hidden_states=x),
            "expect": expect,
            **case,
        }
    )


def post_norm(name, model, **changes):
    return decoder(
        name,
        model,
        POST,
        contribution=no_attention_norms,
        call=lambda layer, x: layer(x),
        attention_input=False,
        **changes,
    )


WHISPER = {"num_mel_bins": 8, "max_source_positions": 10, "max_target_positions": 10}


@cases_in_types(
    post_norm("Bart", "BartForConditionalGeneration", whole_config=BART_RELEASE),
    post_norm("Marian", "MarianMTModel"),
    decoder("MBart", "MBartForConditionalGeneration"),
    decoder("M2M100", "M2M100ForConditionalGeneration", {"activation": "relu", "residual.placement": "pre"}),
    decoder("Pegasus", "PegasusForConditionalGeneration"),
    decoder("Blenderbot", "BlenderbotForConditionalGeneration"),
    decoder("Whisper", "WhisperForConditionalGeneration", **WHISPER),
)
def test_the_stack_is_the_models_own_layers(case, tmp_path, dtype):
    config = check(case, tmp_path, dtype)
    assert config.num_hidden_layers == SIZES["decoder_layers"]


def test_the_encoder_is_refused(tmp_path):
    saved_model(decoder("MBart", "MBartForConditionalGeneration"), tmp_path / "model", "float32")
    with pytest.raises(CheckpointError, match="stack='encoder' is not one of this model's; it has 'decoder'"):
        convert(tmp_path / "model", tmp_path / "checkpoint", stack="encoder")


def test_a_bart_that_normalises_before_is_refused(tmp_path):
    case = post_norm("Bart", "BartForConditionalGeneration", changed_config={"normalize_before": True})
    saved_model(case, tmp_path / "model", "float32")
    with pytest.raises(CheckpointError, match="normalize_before=True is not supported; expected False"):
        convert(tmp_path / "model", tmp_path / "checkpoint")
