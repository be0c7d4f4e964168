"""Gemma: RMS norms whose weight is stored less one, a gated feed-forward, from Gemma 2 on between two norms."""

from __future__ import annotations

from dataclasses import replace

from trtllm_ext.checkpoint.convert.architectures.llama import BESIDE, LAYERS, WEIGHTS
from trtllm_ext.checkpoint.convert.architectures.spec import StackArchitecture, StackForm
from trtllm_ext.checkpoint.convert.hf_config import HfConfig
from trtllm_ext.checkpoint.form_parts import gated_form, residual, rms_norm
from trtllm_ext.errors import CheckpointError

_MATRICES = {ours: source for ours, source in WEIGHTS.items() if ours.startswith("mlp.")}
SANDWICH_WEIGHTS = {
    "pre_feedforward_layernorm": "pre_feedforward_layernorm",
    "post_feedforward_layernorm": "post_feedforward_layernorm",
    **_MATRICES,
}
_CACHE_FIELDS = frozenset({"cache_implementation", "sliding_window_size", "_sliding_window_pattern"})
_EXAMPLE = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "hidden_act": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
}


def _read(config: HfConfig, layers: range) -> StackForm:
    norm = rms_norm(config.eps("rms_norm_eps", 1e-6), weight_offset=1.0)
    return StackForm(
        hidden_size=config.size("hidden_size"),
        ffn_hidden_size=config.size("intermediate_size"),
        feed_forward=gated_form(_activation(config), residual(norm)),
        weights=WEIGHTS,
    )


def _activation(config: HfConfig) -> str:
    """Gemma 1 was released with 'gelu' in its config and trained with the tanh form, which transformers computes."""
    activation = config.activation("hidden_act", "gelu_pytorch_tanh", means={"gelu": "gelu_tanh"})
    later = config.get("hidden_activation", None)
    if later is not None and config.activation("hidden_activation") != activation:
        raise CheckpointError(
            f"{config.path}: hidden_activation={later!r} and hidden_act={config.get('hidden_act', None)!r} name two "
            "functions, and releases of transformers differ in which of the fields they read. Take out the wrong one."
        )
    return activation


def _read_sandwich(config: HfConfig, layers: range) -> StackForm:
    norm = rms_norm(config.eps("rms_norm_eps", 1e-6), weight_offset=1.0)
    activation = config.activation("hidden_activation", "gelu_pytorch_tanh")
    return StackForm(
        hidden_size=config.size("hidden_size"),
        ffn_hidden_size=config.size("intermediate_size"),
        feed_forward=gated_form(activation, residual(norm, placement="sandwich", post_norm=norm)),
        weights=SANDWICH_WEIGHTS,
    )


def _read_vaultgemma(config: HfConfig, layers: range) -> StackForm:
    """Gemma 2 without the norms behind its sublayers."""
    form = _read_sandwich(config, layers)
    pre = replace(form.feed_forward.residual, placement="pre", post_norm=None)
    return replace(
        form,
        feed_forward=replace(form.feed_forward, residual=pre),
        weights={"post_layernorm": "pre_feedforward_layernorm", **_MATRICES},
    )


GEMMA = StackArchitecture(
    model_type="gemma",
    prefix="Gemma",
    read=_read,
    layers=LAYERS,
    beside=BESIDE,
    example=_EXAMPLE,
    note="'gelu' in hidden_act means the tanh form",
)
GEMMA2 = StackArchitecture(
    model_type="gemma2",
    prefix="Gemma2",
    read=_read_sandwich,
    layers=LAYERS,
    beside=(*BESIDE, "post_attention_layernorm"),
    # Saved beside hidden_activation, which is the one that the model reads.
    other_fields=_CACHE_FIELDS | {"hidden_act"},
    example={**_EXAMPLE, "hidden_activation": "gelu_pytorch_tanh"},
)
GEMMA3 = replace(
    GEMMA2,
    model_type="gemma3",
    prefix="Gemma3",
    layers=(*LAYERS, "language_model.model.layers", "model.language_model.layers", "language_model.layers"),
    nested_config=("text_config",),
    other_classes=("Gemma3TextModel", "Gemma3TextForSequenceClassification"),
    note="with a vision tower: the language model's layers",
)
VAULTGEMMA = replace(
    GEMMA2,
    model_type="vaultgemma",
    prefix="VaultGemma",
    read=_read_vaultgemma,
    beside=BESIDE,
)
T5GEMMA = tuple(
    replace(
        GEMMA2,
        model_type="t5gemma",
        prefix="T5Gemma",
        layers=(f"model.{stack}.layers", f"{stack}.layers"),
        beside=tuple(
            f"{place}{part}{end}"
            for part in attentions
            for place, end in (("", ""), ("pre_", "_layernorm"), ("post_", "_layernorm"))
        ),
        other_fields=GEMMA2.other_fields | {"dropout_rate"},
        nested_config=(stack,),
        stack=stack,
    )
    for stack, attentions in (("encoder", ("self_attn",)), ("decoder", ("self_attn", "cross_attn")))
)

ARCHITECTURES = (GEMMA, GEMMA2, GEMMA3, VAULTGEMMA, *T5GEMMA)
