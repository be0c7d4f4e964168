"""T5 and its multilingual kin: an encoder and a decoder of pre-norm layers, whose float16 sums are clamped."""

from __future__ import annotations

from functools import partial

from trtllm_ext.checkpoint.contract import FeedForwardContract
from trtllm_ext.checkpoint.convert.activation_names import ACTIVATION_NAMES
from trtllm_ext.checkpoint.convert.architectures.spec import StackArchitecture, StackForm
from trtllm_ext.checkpoint.convert.hf_config import HfConfig
from trtllm_ext.checkpoint.form_parts import gated_form, llama_norm, plain_form, residual
from trtllm_ext.errors import CheckpointError

_OTHER_FIELDS = frozenset(
    {
        *("d_kv", "relative_attention_num_buckets", "relative_attention_max_distance", "dropout_rate"),
        *("initializer_factor", "scale_decoder_outputs", "scalable_attention"),
    }
)
# 'gated-gelu' is the one name that does not mean its activation's function.
_GATED = {
    **{f"gated-{name}": meaning for name, meaning in ACTIVATION_NAMES.items()},
    "gated-gelu": "gelu_tanh",
}
_EXAMPLE = {
    "d_model": 64,
    "d_ff": 160,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "feed_forward_proj": "relu",
    "layer_norm_epsilon": 1e-6,
}


def _read(config: HfConfig, layers: range, *, usual: str, place: int) -> StackForm:
    """usual: feed_forward_proj where the config says nothing. place: of the feed-forward among a layer's parts."""
    form = _feed_forward(config, usual)
    stem = f"layer.{place}.DenseReluDense"
    into = {"mlp.fc": f"{stem}.wi_0", "mlp.gate": f"{stem}.wi_1"} if form.gated else {"mlp.fc": f"{stem}.wi"}
    return StackForm(
        hidden_size=config.size("d_model"),
        ffn_hidden_size=config.size("d_ff"),
        feed_forward=form,
        weights={"post_layernorm": f"layer.{place}.layer_norm", **into, "mlp.proj": f"{stem}.wo"},
    )


def _feed_forward(config: HfConfig, usual: str) -> FeedForwardContract:
    activation = config.activation("feed_forward_proj", usual, means=_GATED)
    gated = config.get("feed_forward_proj", usual) in _GATED
    _check_later_fields(config, activation, gated)
    norm = llama_norm(config.eps("layer_norm_epsilon", 1e-6))
    form = gated_form if gated else plain_form
    return form(activation, residual(norm, clamp="float16"), bias=False)


def _check_later_fields(config: HfConfig, activation: str, gated: bool) -> None:
    """Newer configs say in two more fields what feed_forward_proj says; transformers obeys those where they differ."""
    agrees = config.flag("is_gated_act", gated) == gated
    if "dense_act_fn" in config:
        agrees = agrees and config.activation("dense_act_fn") == activation
    if agrees:
        return
    fields = ("feed_forward_proj", "dense_act_fn", "is_gated_act")
    raise CheckpointError(
        f"{config.path}: {', '.join(f'{name}={config.get(name, None)!r}' for name in fields)} contradict each other. "
        "'gated-gelu' is the gated form with 'gelu_new'. Correct the wrong one."
    )


def _specs(model_type: str, prefix: str, usual: str, note: str = "") -> tuple[StackArchitecture, ...]:
    """An encoder's and a decoder's. usual: what feed_forward_proj is where a config leaves it out."""
    return tuple(
        StackArchitecture(
            model_type=model_type,
            prefix=prefix,
            read=partial(_read, usual=usual, place=len(beside)),
            layers=(f"{stack}.block", f"transformer.{stack}.block"),
            beside=beside,
            other_fields=_OTHER_FIELDS | {"num_layers", "num_decoder_layers"},
            depth=depth,
            depth_unless_given="num_layers",
            stack=stack,
            example={**_EXAMPLE, "feed_forward_proj": usual},
            note=note,
        )
        for stack, depth, beside in (
            ("encoder", "num_layers", ("layer.0",)),
            ("decoder", "num_decoder_layers", ("layer.0", "layer.1")),
        )
    )


ARCHITECTURES = (
    *_specs("t5", "T5", "relu", "version 1.1 and Flan: 'gated-gelu' means the tanh form"),
    *_specs("mt5", "MT5", "gated-gelu"),
    *_specs("umt5", "UMT5", "gated-gelu"),
)
