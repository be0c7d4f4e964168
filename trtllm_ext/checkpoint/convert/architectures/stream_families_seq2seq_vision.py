"""What stands around the feed-forward sublayers of fairseq's line, of T5 and of image encoders."""

from __future__ import annotations

from typing import Any

from trtllm_ext.checkpoint.convert.architectures.around import (
    AttentionNames,
    Factor,
    Fields,
    StreamNames,
    Table,
    field,
    one,
    root_if,
)
from trtllm_ext.checkpoint.convert.architectures.stream_families import (
    attention,
    cross_attention,
    projections,
)

# --- fairseq's line -------------------------------------------------------------------------------------------

_FAIRSEQ_SELF = projections("self_attn_layer_norm", o="out_proj")
_FAIRSEQ_CROSS = cross_attention(
    "encoder_attn", "q_proj", "out_proj", "encoder_attn_layer_norm", "k_proj", "v_proj", optional=True
)


def fairseq(
    *,
    scale: Factor = one,
    norm: str = "",
    final: str = "",
    computed: bool = False,
    cross: bool = True,
) -> StreamNames:
    """A decoder of BART's kind. norm: of the embeddings; final: of the last stream; '' for none."""
    words = ("{base}embed_tokens.weight", "{above}shared.weight", "{base}shared.weight")
    return StreamNames(
        attention=(_FAIRSEQ_SELF, _FAIRSEQ_CROSS) if cross else (_FAIRSEQ_SELF,),
        tables=(
            Table(role="vocab", names=words, scale=scale, optional=False),
            Table(role="position", names=("{base}embed_positions.weight",), computed=computed),
        ),
        embedding_norm=(f"{{base}}{norm}",) if norm else (),
        final_norm=(f"{{base}}{final}",) if final else (),
        heads=("lm_head", "proj_out", "output_projection", "score"),
    )


def fairseq_scale(default: bool) -> Factor:
    return root_if("scale_embedding", "d_model", default)


OPT = StreamNames(
    attention=(_FAIRSEQ_SELF,),
    tables=(
        Table(role="project_in", names=("{base}project_in.weight",), form="matrix"),
        Table(role="vocab", names=("{base}embed_tokens.weight",), optional=False),
        Table(role="position", names=("{base}embed_positions.weight",)),
    ),
    final_norm=("{base}final_layer_norm",),
    heads=("{base}project_out", "lm_head", "score"),
)


def t5_stack(decoder: bool, tied: Factor = one) -> StreamNames:
    part = ("q", "k", "v", "o", "layer.0.layer_norm")
    sublayers = [attention("layer.0.SelfAttention", *part)]
    if decoder:
        sublayers.append(cross_attention("layer.1.EncDecAttention", "q", "o", "layer.1.layer_norm", "k", "v"))
    return StreamNames(
        attention=tuple(sublayers),
        tables=(
            Table(
                role="vocab",
                names=("{base}embed_tokens.weight", "{above}shared.weight"),
                optional=False,
            ),
        ),
        final_norm=("{base}final_layer_norm",),
        heads=("lm_head",) if decoder else ("classifier",),
        tied=decoder,
        logits_scale=tied,
    )


def t5_logits(fields: Fields) -> float:
    """Where its head is the table of words, T5 divides what the head reads by the root of the hidden size."""
    tied = fields.get("tie_word_embeddings", None) is not False
    return float(fields["d_model"]) ** -0.5 if field(fields, "scale_decoder_outputs", default=tied) else 1.0


def umt5_logits(fields: Fields) -> float:
    return float(fields["d_model"]) ** -0.5 if fields.get("tie_word_embeddings", True) else 1.0


# --- images ---------------------------------------------------------------------------------------------------


def image_stack(
    attention: AttentionNames,
    place: str,
    *,
    final: str | tuple[str, ...],
    patch: str = "patch_embeddings.projection",
    heads: tuple[str, ...] = (),
    norm: tuple[str, ...] = (),
) -> StreamNames:
    """place: what stands before the embeddings' names."""
    return StreamNames(
        attention=(attention,),
        tables=(
            Table(role="patch", names=(f"{place}{patch}.weight",), form="matrix", optional=False),
            *(
                Table(role=role, names=tuple(f"{place}{name}" for name in names))
                for role, names in (
                    ("class", ("cls_token", "class_embedding")),
                    ("distillation", ("distillation_token",)),
                    ("register", ("register_tokens",)),
                    ("mask", ("mask_token",)),
                    ("position", ("position_embeddings", "position_embedding.weight")),
                )
            ),
        ),
        embedding_norm=norm,
        final_norm=(final,) if isinstance(final, str) else final,
        heads=("classifier", "decoder.0", "cls_classifier", "distillation_classifier", *heads),
        tied=False,
    )


def vit_attention(norm: str, **more: Any) -> AttentionNames:
    return AttentionNames(
        reads={role: f"attention.attention.{name}" for role, name in _QUERY_KEY_VALUE.items()},
        writes="attention.output.dense",
        norm=(norm,),
        **more,
    )


_QUERY_KEY_VALUE = {"q": "query", "k": "key", "v": "value"}
CLIP_ATTENTION = projections("layer_norm1", o="out_proj")
VIT = image_stack(
    vit_attention("layernorm_before"),
    "{above}embeddings.",
    final="{above}layernorm",
    heads=("{above}pooler.dense",),
)
DINOV2 = image_stack(
    vit_attention("norm1", gate="layer_scale1.lambda1"), "{above}embeddings.", final="{above}layernorm"
)
DINOV3 = image_stack(
    attention("attention", "q_proj", "k_proj", "v_proj", "o_proj", "norm1", gate="layer_scale1.lambda1"),
    "embeddings.",
    patch="patch_embeddings",
    final="norm",
)


def text_tower(head: str) -> StreamNames:
    place = "{above}embeddings."
    return StreamNames(
        attention=(CLIP_ATTENTION,),
        tables=(
            Table(role="vocab", names=(f"{place}token_embedding.weight",), optional=False),
            Table(role="position", names=(f"{place}position_embedding.weight",)),
        ),
        final_norm=("{above}final_layer_norm",),
        heads=(head,),
        tied=False,
    )
