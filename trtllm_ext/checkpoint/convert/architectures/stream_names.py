"""What stands around the feed-forward sublayers of every architecture, by model type; read from transformers' code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from trtllm_ext.checkpoint.convert.architectures.around import (
    StreamNames,
    Table,
    by_head,
    one,
    queries_first,
    root_if,
    root_of,
    thirds,
)
from trtllm_ext.checkpoint.convert.architectures.stream_families import (
    BRANCH,
    COHERE,
    CONV,
    FALCON,
    GEMMA2,
    GRANITE,
    IMAGE_FEATURES,
    ROOT,
    SOFTCAP,
    attention,
    bigcode_rows,
    codegen_rows,
    cross_attention,
    fused_attention,
    gpt2,
    llama,
    projections,
    t5gemma,
    words_only,
)
from trtllm_ext.checkpoint.convert.architectures.stream_families_seq2seq_vision import (
    CLIP_ATTENTION,
    DINOV2,
    DINOV3,
    OPT,
    VIT,
    fairseq,
    fairseq_scale,
    image_stack,
    t5_logits,
    t5_stack,
    text_tower,
    umt5_logits,
    vit_attention,
)

_LLAMA_LIKE = """
llama mistral qwen2 qwen3 mixtral qwen2_moe qwen3_moe olmoe gpt_oss olmo smollm3 seed_oss ernie4_5 helium arcee
nemotron jais2 starcoder2 glm stablelm
"""

# By model type, and by stack where there are two; of an architecture that is not here the feed-forward alone is known.
STREAM_NAMES: Mapping[str | tuple[str, str], StreamNames] = {
    **{name: llama() for name in _LLAMA_LIKE.split()},
    "granite": GRANITE,
    "granitemoe": GRANITE,
    "phi3": llama(fused_attention("self_attn", "qkv_proj", "o_proj", "input_layernorm", split=queries_first)),
    "phi": llama(projections(o="dense"), norm="final_layernorm"),
    "gemma": llama(scale=ROOT),
    "gemma2": GEMMA2,
    "gemma3": replace(GEMMA2, tables=(*GEMMA2.tables, IMAGE_FEATURES)),
    "vaultgemma": llama(scale=ROOT, head_remark=SOFTCAP),
    ("t5gemma", "encoder"): t5gemma(False),
    ("t5gemma", "decoder"): t5gemma(True),
    "olmo2": BRANCH,
    "olmo3": BRANCH,
    "exaone4": BRANCH,
    "glm4": llama(projections(post_norm="post_self_attn_layernorm")),
    "cohere": COHERE,
    "cohere2": COHERE,
    "persimmon": llama(
        fused_attention("self_attn", "query_key_value", "dense", "input_layernorm", split=by_head),
        norm="final_layernorm",
    ),
    "gpt2": gpt2(
        fused_attention("attn", "c_attn", "c_proj", "ln_1", **CONV),
        cross_attention(
            "crossattention", "q_attn", "c_proj", "ln_cross_attn", "c_attn", transposed=True, optional=True
        ),
    ),
    "openai-gpt": gpt2(fused_attention("attn", "c_attn", "c_proj", "ln_1", **CONV), final=""),
    "gpt_bigcode": gpt2(
        fused_attention("attn", "c_attn", "c_proj", "ln_1", split=bigcode_rows),
        cross_attention("crossattention", "q_attn", "c_proj", "ln_cross_attn", "c_attn", optional=True),
    ),
    "gpt_neo": gpt2(attention("attn.attention", "q_proj", "k_proj", "v_proj", "out_proj", "ln_1")),
    "gptj": gpt2(attention("attn", "q_proj", "k_proj", "v_proj", "out_proj", "ln_1")),
    "codegen": gpt2(fused_attention("attn", "qkv_proj", "out_proj", "ln_1", split=codegen_rows)),
    "gpt_neox": words_only(
        fused_attention("attention", "query_key_value", "dense", "input_layernorm", split=by_head),
        "embed_in",
        final="final_layer_norm",
    ),
    "gpt_neox_japanese": words_only(
        fused_attention("attention", "query_key_value", "dense", "input_layernorm", split=by_head),
        "embed_in",
        final="final_layer_norm",
    ),
    "falcon": FALCON,
    "RefinedWeb": FALCON,
    "bloom": words_only(
        fused_attention("self_attention", "query_key_value", "dense", "input_layernorm", split=by_head),
        "word_embeddings",
        final="ln_f",
        norm=("{base}word_embeddings_layernorm",),
    ),
    "mpt": words_only(
        fused_attention("attn", "Wqkv", "out_proj", "norm_1", split=thirds), "wte", final="norm_f"
    ),
    "ctrl": StreamNames(
        attention=(attention("multi_head_attention", "Wq", "Wk", "Wv", "dense", "layernorm1"),),
        tables=(
            Table(role="vocab", names=("{base}w.weight",), scale=root_of("n_embd"), optional=False),
            Table(role="position", names=("{base}pos_encoding",), computed=True),
        ),
        final_norm=("{base}layernorm",),
    ),
    "opt": OPT,
    "xglm": fairseq(scale=fairseq_scale(True), final="layer_norm", computed=True),
    "biogpt": fairseq(scale=root_if("scale_embedding", "hidden_size", True), final="layer_norm", cross=False),
    "bart": fairseq(scale=fairseq_scale(False), norm="layernorm_embedding"),
    "marian": fairseq(scale=fairseq_scale(False), computed=True),
    "mbart": fairseq(scale=fairseq_scale(False), norm="layernorm_embedding", final="layer_norm"),
    "m2m_100": fairseq(scale=fairseq_scale(True), final="layer_norm", computed=True),
    "pegasus": fairseq(scale=fairseq_scale(False), final="layer_norm", computed=True),
    "blenderbot": fairseq(scale=fairseq_scale(False), final="layer_norm"),
    "whisper": fairseq(final="layer_norm"),
    **{
        (name, stack): t5_stack(stack == "decoder", logits if stack == "decoder" else one)
        for name, logits in (("t5", t5_logits), ("mt5", one), ("umt5", umt5_logits))
        for stack in ("encoder", "decoder")
    },
    "vit": VIT,
    "deit": VIT,
    "beit": image_stack(
        vit_attention("layernorm_before", gate="lambda_1"),
        "{above}embeddings.",
        # Where the patches' mean is taken, the norm is of the mean.
        final=("{above}layernorm", "{above}pooler.layernorm"),
    ),
    "dinov2": DINOV2,
    "dinov2_with_registers": DINOV2,
    "dinov3_vit": DINOV3,
    ("clip", "text"): text_tower("text_projection"),
    ("clip", "vision"): image_stack(
        CLIP_ATTENTION,
        "{above}embeddings.",
        patch="patch_embedding",
        final="{above}post_layernorm",
        heads=("visual_projection",),
        norm=("{above}pre_layrnorm",),
    ),
    ("siglip", "text"): text_tower("{above}head"),
    ("siglip", "vision"): image_stack(
        CLIP_ATTENTION, "{above}embeddings.", patch="patch_embedding", final="{above}post_layernorm"
    ),
}
