"""T5's encoder and decoder, its gated and plain feed-forward, and what it does where float16 overflows."""

import numpy as np
import pytest
import torch
import transformers as hf
from stack_against_transformers import TOKENS, Case, Given, cases_in_types, check, saved_model

import trtllm_ext as tx
from trtllm_ext.checkpoint import convert
from trtllm_ext.errors import CheckpointError
from trtllm_ext.models import model_from_checkpoint

BUDGET_S = 8

SIZES = {
    "vocab_size": 50,
    "d_model": 24,
    "d_kv": 8,
    "d_ff": 40,
    "num_heads": 2,
    "num_layers": 2,
    "num_decoder_layers": 3,
}
RELU = {"gated": False, "activation": "relu", "fc_bias": False, "residual.clamp": "float16"}
GATED_TANH = {"gated": True, "activation": "gelu_tanh", "residual.norm.rounding": "before_weight"}
# config.json of t5-small and of flan-t5-small, in small.
T5_RELEASE = {
    "architectures": ["T5ForConditionalGeneration"],
    "d_ff": 40,
    "d_kv": 8,
    "d_model": 24,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "n_positions": 512,
    "num_heads": 2,
    "num_layers": 2,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_num_buckets": 32,
    "task_specific_params": {"summarization": {"early_stopping": True, "num_beams": 4}},
    "vocab_size": 50,
}
FLAN_RELEASE = {
    **T5_RELEASE,
    "feed_forward_proj": "gated-gelu",
    "num_decoder_layers": 3,
    "relative_attention_max_distance": 128,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.23.1",
    "use_cache": True,
}


def attended(output):
    return output, None, None


def both_attentions(block, output):
    """A decoder layer's attention to itself gives `output`, and its attention to the encoder a third of it."""
    block.layer[1].EncDecAttention = Given(output[None] / 3, block.layer[0].SelfAttention.wrap)
    return output + output / 3


def encoder(model="T5ForConditionalGeneration", config=hf.T5Config, **changes):
    fields = {key: value for key, value in changes.items() if key not in Case.__dataclass_fields__}
    case = {key: value for key, value in changes.items() if key in Case.__dataclass_fields__}
    return Case(
        **{
            "name": model,
            "config": config(**{**SIZES, **fields}),
            "model": getattr(hf, model),
            "layers": lambda model: model.encoder.block,
            "attention": "layer.0.SelfAttention",
            "wrap": attended,
            **case,
        }
    )


def decoder(*arguments, **changes):
    return encoder(
        *arguments,
        **{
            "layers": lambda model: model.decoder.block,
            "call": lambda block, x: block(x, encoder_hidden_states=x),
            "contribution": both_attentions,
            "options": {"stack": "decoder"},
            **changes,
        },
    )


CLASSIFIER = encoder(
    "T5ForTokenClassification", name="T5Classifier", layers=lambda m: m.transformer.encoder.block
)


@cases_in_types(
    encoder(name="T5", whole_config=T5_RELEASE, expect=RELU),
    decoder(name="T5Decoder", expect=RELU),
    # The first configs have no depth of the decoder: it is the encoder's.
    decoder(name="T5DecoderRelease", num_decoder_layers=2, whole_config=T5_RELEASE),
    encoder(name="Flan", feed_forward_proj="gated-gelu", whole_config=FLAN_RELEASE, expect=GATED_TANH),
    decoder(name="FlanDecoder", feed_forward_proj="gated-gelu", expect=GATED_TANH),
    encoder("T5Model", name="T5GatedSilu", feed_forward_proj="gated-silu", expect={"activation": "silu"}),
    encoder(
        "T5EncoderModel", feed_forward_proj="gelu", layer_norm_epsilon=1e-3, expect={"activation": "gelu_erf"}
    ),
    CLASSIFIER,
    encoder("MT5ForConditionalGeneration", hf.MT5Config, expect=GATED_TANH),
    decoder("MT5ForConditionalGeneration", hf.MT5Config, name="MT5Decoder", expect=GATED_TANH),
    encoder(
        "UMT5EncoderModel",
        hf.UMT5Config,
        wrap=lambda output: (output, None),
        expect=GATED_TANH,
        name="UMT5Encoder",
    ),
    decoder("UMT5ForConditionalGeneration", hf.UMT5Config, wrap=lambda output: (output, None)),
)
def test_the_stack_is_the_models_own_layers(case, tmp_path, dtype):
    config = check(case, tmp_path, dtype)
    assert case.options.get("stack", "encoder") in config.source


def large_outputs(model):
    with torch.no_grad():
        for block in model.encoder.block:
            block.layer[-1].DenseReluDense.wo.weight.mul_(2000)


@pytest.mark.parametrize("overflows", ["attention", "feed_forward"])
def test_float16_sums_beyond_its_range_come_back_as_t5_brings_them_back(tmp_path, overflows):
    """Where any element of a sum overflows, all are held to 1000 less than the largest number."""
    case = encoder("T5EncoderModel", feed_forward_proj="gated-gelu")
    case.prepare = large_outputs if overflows == "feed_forward" else case.prepare
    model = saved_model(case, tmp_path / "model", "float16").half()
    convert(tmp_path / "model", tmp_path / "checkpoint", attention_input=True)
    x = np.random.default_rng(0).normal(size=(TOKENS, SIZES["d_model"])).astype(np.float16)
    x[0, ::2], x[1, ::3], x[2, 0] = 65504, -65504, 65000
    added = np.zeros((SIZES["num_layers"], *x.shape), np.float16)
    if overflows == "attention":
        added[0, 0, :4], added[1, 1, :4] = 4000, -4000

    with torch.no_grad():
        expected = torch.from_numpy(x)[None]
        for block, output in zip(model.encoder.block, torch.from_numpy(added), strict=True):
            block.layer[0].SelfAttention = Given(output[None], attended)
            expected = block(expected)[0]
    expected = expected[0].numpy()
    engine = tx.build(
        model_from_checkpoint(tmp_path / "checkpoint"), tx.BuildConfig(max_num_tokens=16)
    ).engine
    with tx.Session.from_serialized_engine(engine) as session:
        got = session.run({"hidden_states": x, "attention_output": added})["hidden_states_out"]
    held = np.abs(expected) == 64512  # 64504 in float16
    assert 3 < held.sum() < held.size / 2
    np.testing.assert_array_equal(np.abs(got) == 64512, held)
    np.testing.assert_allclose(got, expected, rtol=2e-3, atol=0.01 if overflows == "attention" else 10.0)


@pytest.mark.parametrize(
    "fields",
    [
        {"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu", "is_gated_act": True},
        {"feed_forward_proj": "gelu", "dense_act_fn": "gelu", "is_gated_act": True},
        {"feed_forward_proj": "relu", "dense_act_fn": "gelu_new"},
    ],
)
def test_fields_that_contradict_each_other_are_refused(tmp_path, fields):
    with pytest.raises(
        CheckpointError, match=r"feed_forward_proj='.*', dense_act_fn='.*', .* contradict each other"
    ):
        converted_with(tmp_path, fields)


def test_an_unknown_form_is_refused_with_the_nearest_ones(tmp_path):
    with pytest.raises(
        CheckpointError,
        match=r"feed_forward_proj='gated-gelo' is not known. Did you mean gated-gelu \(gelu_tanh\)",
    ):
        converted_with(tmp_path, {"feed_forward_proj": "gated-gelo"})


def test_an_encoder_alone_has_no_decoder(tmp_path):
    case = encoder("T5EncoderModel")
    saved_model(case, tmp_path / "model", "float32")
    with pytest.raises(
        CheckpointError, match=r"no weights of layers: expected are names that start with decoder\.block"
    ):
        convert(tmp_path / "model", tmp_path / "checkpoint", stack="decoder")


def converted_with(tmp_path, fields):
    case = encoder()
    case.changed_config = fields
    saved_model(case, tmp_path / "model", "float32")
    convert(tmp_path / "model", tmp_path / "checkpoint")
