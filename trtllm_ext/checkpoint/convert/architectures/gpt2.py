"""GPT-2 and its line: LayerNorm, then two matrices with biases; named c_fc and c_proj, stored transposed or not."""

from __future__ import annotations

from collections.abc import Callable

from trtllm_ext.checkpoint.contract import ResidualContract
from trtllm_ext.checkpoint.convert.architectures.spec import Source, StackArchitecture, StackForm, transposed
from trtllm_ext.checkpoint.convert.hf_config import HfConfig
from trtllm_ext.checkpoint.form_parts import layer_norm, plain_form, residual

LAYERS = ("transformer.h", "h")
# How a classifier is put on top of the model.
SUMMARY = frozenset(
    f"summary_{name}"
    for name in ("type", "use_proj", "activation", "proj_to_labels", "first_dropout", "last_dropout")
)
# Written by the first releases of OpenAI's models; nothing reads them.
_OLD = frozenset({"n_special", "predict_special_tokens"})
_BESIDE = ("attn", "ln_1", "crossattention", "ln_cross_attn")
_TRANSPOSED: dict[str, str | Source] = {
    "post_layernorm": "ln_2",
    "mlp.fc": transposed("mlp.c_fc"),
    "mlp.proj": transposed("mlp.c_proj"),
}
_EXAMPLE = {
    "n_embd": 64,
    "n_layer": 2,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
}


def _read_gpt2(config: HfConfig, layers: range) -> StackForm:
    hidden = config.size("n_embd")
    return StackForm(
        hidden_size=hidden,
        ffn_hidden_size=config.size("n_inner", 4 * hidden),
        feed_forward=plain_form(config.activation("activation_function", "gelu_new"), _residual(config)),
        weights=_TRANSPOSED,
    )


def _residual(config: HfConfig, **changes: object) -> ResidualContract:
    return residual(layer_norm(config.eps("layer_norm_epsilon", 1e-5)), **changes)


def _read_openai_gpt(config: HfConfig, layers: range) -> StackForm:
    hidden = config.size("n_embd")
    # Its table of activations is its own: 'gelu' is the tanh form there.
    activation = config.activation("afn", "gelu", {"gelu": "gelu_tanh"})
    return StackForm(
        hidden_size=hidden,
        ffn_hidden_size=4 * hidden,
        feed_forward=plain_form(activation, _residual(config, placement="post")),
        weights=_TRANSPOSED,
    )


def _reader(width: str, inner: str, default_activation: str) -> Callable[[HfConfig, range], StackForm]:
    """GPT-2's layer with matrices as (out_features, in_features). width, inner: the fields with the two sizes."""

    def read(config: HfConfig, layers: range) -> StackForm:
        hidden = config.size(width)
        return StackForm(
            hidden_size=hidden,
            ffn_hidden_size=config.size(inner, 4 * hidden),
            feed_forward=plain_form(
                config.activation("activation_function", default_activation), _residual(config)
            ),
            weights={"post_layernorm": "ln_2", "mlp.fc": "mlp.c_fc", "mlp.proj": "mlp.c_proj"},
        )

    return read


GPT2 = StackArchitecture(
    model_type="gpt2",
    prefix="GPT2",
    read=_read_gpt2,
    layers=LAYERS,
    beside=_BESIDE,
    depth="n_layer",
    other_fields=SUMMARY | _OLD,
    example=_EXAMPLE,
    other_classes=("GPT2DoubleHeadsModel",),
    note="matrices stored transposed",
)
OPENAI_GPT = StackArchitecture(
    model_type="openai-gpt",
    prefix="OpenAIGPT",
    read=_read_openai_gpt,
    layers=LAYERS,
    beside=_BESIDE,
    depth="n_layer",
    other_fields=SUMMARY | _OLD,
    example={"n_embd": 64, "n_layer": 2, "afn": "gelu", "layer_norm_epsilon": 1e-5},
    other_classes=("OpenAIGPTDoubleHeadsModel",),
    note="matrices stored transposed; 'gelu' means the tanh form",
)
GPT_BIGCODE = StackArchitecture(
    model_type="gpt_bigcode",
    prefix="GPTBigCode",
    read=_reader("n_embd", "n_inner", "gelu_pytorch_tanh"),
    layers=LAYERS,
    beside=_BESIDE,
    depth="n_layer",
    other_fields=SUMMARY
    | {
        *("multi_query", "scale_attention_softmax_in_fp32", "inference_runner", "validate_runner_input"),
        *("max_batch_size", "max_sequence_length", "pad_key_length", "pre_allocate_kv_cache"),
    },
    example={**_EXAMPLE, "activation_function": "gelu_pytorch_tanh"},
)
GPT_NEO = StackArchitecture(
    model_type="gpt_neo",
    prefix="GPTNeo",
    read=_reader("hidden_size", "intermediate_size", "gelu_new"),
    layers=LAYERS,
    beside=_BESIDE,
    depth="num_layers",
    other_fields=SUMMARY
    | {"attention_layers", "attention_types", "window_size", "resid_dropout", "embed_dropout"},
    example={
        "hidden_size": 64,
        "num_layers": 2,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
    },
)

ARCHITECTURES = (GPT2, OPENAI_GPT, GPT_BIGCODE, GPT_NEO)
