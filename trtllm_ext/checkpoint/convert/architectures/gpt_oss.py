"""GPT-OSS: experts with clamped gates and biases, their gate and up in turns, as published in MXFP4."""

from __future__ import annotations

from trtllm_ext.checkpoint.convert.architectures.mixture import (
    EXAMPLE,
    NORM,
    TRAINING,
    mixture_of,
    spec_of,
)
from trtllm_ext.checkpoint.convert.architectures.spec import Source, StackForm
from trtllm_ext.checkpoint.convert.hf_config import HfConfig
from trtllm_ext.checkpoint.convert.mxfp4 import BLOCKS, Mxfp4Weights
from trtllm_ext.checkpoint.convert.pieces import Joined, Piece, Shape, Weight
from trtllm_ext.checkpoint.form_parts import gated_form, residual, rms_norm
from trtllm_ext.errors import CheckpointError


def _read(config: HfConfig, layers: range) -> StackForm:
    # x sigmoid(alpha x) is an activation by the name of quick_gelu for this alpha alone.
    config.fixed("swiglu_alpha", 1.702)
    _check_quantization(config)
    mixture = mixture_of(config, renormalized=True, router_bias=True)
    config.fixed("experts_per_token", mixture.top_k)
    return StackForm(
        hidden_size=config.size("hidden_size"),
        ffn_hidden_size=config.size("intermediate_size"),
        feed_forward=gated_form(
            "quick_gelu",
            residual(rms_norm(config.eps("rms_norm_eps"))),
            bias=True,
            clamp=config.number("swiglu_limit", 7.0),
            gate_offset=1.0,
            mixture=mixture,
        ),
        weights={
            **NORM,
            "mlp.router": "mlp.router",
            "mlp.fc": _interleaved(0),
            "mlp.gate": _interleaved(1),
            "mlp.proj": _down,
        },
        other_namings=({"mlp.fc": _coded_rows(0), "mlp.gate": _coded_rows(1), "mlp.proj": _coded_down},),
        decode=Mxfp4Weights,
    )


def _check_quantization(config: HfConfig) -> None:
    quantization = config.get("quantization_config", {})
    method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
    if method not in (None, "mxfp4"):
        raise CheckpointError(
            f"{config.path}: quantization_config has quant_method={method!r}; of quantised models those in 'mxfp4' can "
            "be read. Dequantise this one first: load it into the type wanted and save it again."
        )


def _interleaved(start: int) -> Source:
    """Every second column of (experts, hidden, 2 * ffn), and of the bias."""

    def source(leaf: str, shape: Shape) -> Weight:
        if leaf == "bias":
            return _coded_rows(start)(leaf, shape)
        num_experts, ffn, hidden = shape
        return (
            Piece("mlp.experts.gate_up_proj", (num_experts, hidden, 2 * ffn))
            .transpose()
            .every_second(start, 1)
        )

    return source


def _down(leaf: str, shape: Shape) -> Weight:
    if leaf == "bias":
        return Piece("mlp.experts.down_proj_bias", shape)
    return Piece("mlp.experts.down_proj", (shape[0], shape[2], shape[1])).transpose()


def _coded_rows(start: int) -> Source:
    """Every second row of the coded (experts, 2 * ffn, hidden), and of the bias."""

    def source(leaf: str, shape: Shape) -> Weight:
        stem, source_shape = "mlp.experts.gate_up_proj", (shape[0], 2 * shape[1], *shape[2:])
        if leaf == "bias":
            return Piece(f"{stem}_bias", source_shape).every_second(start)
        return _by_expert(Piece(stem + BLOCKS, source_shape).every_second(start, axis=1))

    return source


def _coded_down(leaf: str, shape: Shape) -> Weight:
    return (
        _down(leaf, shape) if leaf == "bias" else _by_expert(Piece("mlp.experts.down_proj" + BLOCKS, shape))
    )


def _by_expert(piece: Piece) -> Joined:
    """One piece for each expert, so that no more than one expert's weights are decoded at a time."""
    return Joined(tuple(piece.only(expert) for expert in range(piece.shape[0])), piece.shape)


GPT_OSS = spec_of(
    "gpt_oss",
    "GptOss",
    read=_read,
    # Its experts have one activation, whatever hidden_act says.
    other_fields=TRAINING | {"hidden_act", "initial_context_length"},
    example={**EXAMPLE, "num_local_experts": 8, "swiglu_limit": 7.0},
    note="gate and up stored in turns; MXFP4 is decoded exactly",
)

ARCHITECTURES = (GPT_OSS,)
