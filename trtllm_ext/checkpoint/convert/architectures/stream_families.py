"""What stands around the feed-forward sublayers of decoders: Llama's kind and GPT-2's line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trtllm_ext.checkpoint.convert.architectures.around import (
    AttentionNames,
    Factor,
    Fields,
    StreamNames,
    Table,
    by_head,
    field,
    in_groups,
    one,
    root_of,
    thirds,
    value_of,
)


def attention(stem: str, q: str, k: str, v: str, o: str, norm: str, **more: Any) -> AttentionNames:
    """Of one matrix for each of q, k and v."""
    reads = {"q": f"{stem}.{q}", "k": f"{stem}.{k}", "v": f"{stem}.{v}"}
    return AttentionNames(reads=reads, writes=f"{stem}.{o}", norm=(norm,), **more)


def fused_attention(stem: str, qkv: str, o: str, *norm: str, **more: Any) -> AttentionNames:
    """Of one matrix for q, k and v."""
    return AttentionNames(reads={}, fused=f"{stem}.{qkv}", writes=f"{stem}.{o}", norm=norm, **more)


def cross_attention(stem: str, q: str, o: str, norm: str, *others: str, **more: Any) -> AttentionNames:
    """To another stack's output, which k and v read."""
    return AttentionNames(
        reads={"q": f"{stem}.{q}"},
        writes=f"{stem}.{o}",
        norm=(norm,),
        name="cross_attention",
        others=tuple(f"{stem}.{other}" for other in others),
        **more,
    )


def projections(norm: str = "input_layernorm", o: str = "o_proj", **more: Any) -> AttentionNames:
    return attention("self_attn", "q_proj", "k_proj", "v_proj", o, norm, **more)


def llama(
    attention: AttentionNames | None = None,
    *,
    scale: Factor = one,
    norm: str = "norm",
    logits_scale: Factor = one,
    **more: Any,
) -> StreamNames:
    return StreamNames(
        attention=(attention or projections(),),
        tables=(Table(role="vocab", names=("{base}embed_tokens.weight",), scale=scale, optional=False),),
        final_norm=(f"{{base}}{norm}",),
        heads=("lm_head", "language_model.lm_head", "score"),
        logits_scale=logits_scale,
        **more,
    )


SOFTCAP = "final_logit_softcapping, where it is set, bends the logits"
ROOT = root_of("hidden_size")
GRANITE = llama(
    scale=value_of("embedding_multiplier", 1.0),
    logits_scale=value_of("logits_scaling", 1.0, inverse=True),
)
COHERE = llama(logits_scale=value_of("logit_scale", 0.0625))
BRANCH = llama(projections("post_attention_layernorm"))
GEMMA2 = llama(projections(post_norm="post_attention_layernorm"), scale=ROOT, head_remark=SOFTCAP)

# What a vision tower gives takes tokens' places.
IMAGE_FEATURES = Table(
    role="image",
    names=tuple(
        f"{place}multi_modal_projector.mm_input_projection_weight" for place in ("{above}", "", "model.")
    ),
)


def t5gemma(decoder: bool) -> StreamNames:
    def part(name: str, **more: Any) -> dict[str, Any]:
        return {"norm": f"pre_{name}_layernorm", "post_norm": f"post_{name}_layernorm", **more}

    sublayers = [projections(**part("self_attn"))]
    if decoder:
        sublayers.append(
            cross_attention(
                "cross_attn",
                "q_proj",
                "o_proj",
                "pre_cross_attn_layernorm",
                "k_proj",
                "v_proj",
                post_norm="post_cross_attn_layernorm",
            )
        )
    return StreamNames(
        attention=tuple(sublayers),
        tables=(
            Table(
                role="vocab",
                names=("{base}embed_tokens.weight", "{above}encoder.embed_tokens.weight"),
                scale=ROOT,
                optional=False,
            ),
        ),
        final_norm=("{base}norm",),
        heads=("lm_head.out_proj", "score.out_proj") if decoder else (),
        tied=decoder,
        head_remark=SOFTCAP,
    )


# --- GPT-2's line ---------------------------------------------------------------------------------------------


def gpt2(*attention: AttentionNames, final: str = "ln_f", **more: Any) -> StreamNames:
    return StreamNames(
        attention=attention,
        tables=(
            Table(
                role="vocab",
                names=tuple(f"{{base}}{name}.weight" for name in ("wte", "tokens_embed")),
                optional=False,
            ),
            Table(
                role="position",
                names=tuple(f"{{base}}{name}.weight" for name in ("wpe", "positions_embed")),
            ),
        ),
        final_norm=(f"{{base}}{final}",) if final else (),
        heads=("lm_head", "score", "classifier"),
        **more,
    )


def bigcode_rows(fields: Fields, rows: int) -> Mapping[str, tuple[range, ...]]:
    if not field(fields, "multi_query", default=True):
        return by_head(fields, rows)
    return in_groups(1, field(fields, "n_head", "num_attention_heads"), rows)


def codegen_rows(fields: Fields, rows: int) -> Mapping[str, tuple[range, ...]]:
    """In four blocks, each with its heads' q, then v, then k."""
    size = rows // 12
    return {
        role: tuple(range((3 * block + place) * size, (3 * block + place + 1) * size) for block in range(4))
        for role, place in (("q", 0), ("k", 2), ("v", 1))
    }


def falcon_rows(fields: Fields, rows: int) -> Mapping[str, tuple[range, ...]]:
    heads = field(fields, "num_attention_heads", "n_head")
    if field(fields, "new_decoder_architecture", default=fields.get("model_type") == "RefinedWeb"):
        groups = field(fields, "num_kv_heads", "n_head_kv", default=heads)
        return in_groups(groups, heads // groups, rows)
    if field(fields, "multi_query", default=True):
        return in_groups(1, heads, rows)
    return by_head(fields, rows)


CONV = {"transposed": True, "split": thirds}


def words_only(
    attention: AttentionNames, vocab: str, *, final: str, norm: tuple[str, ...] = (), **more: Any
) -> StreamNames:
    """One table of words, nothing else."""
    return StreamNames(
        attention=(attention,),
        tables=(Table(role="vocab", names=(f"{{base}}{vocab}.weight",), optional=False),),
        final_norm=(f"{{base}}{final}",),
        embedding_norm=norm,
        heads=("lm_head", "embed_out", "score"),
        **more,
    )


FALCON = words_only(
    fused_attention(
        "self_attention", "query_key_value", "dense", "ln_attn", "input_layernorm", split=falcon_rows
    ),
    "word_embeddings",
    final="ln_f",
)
