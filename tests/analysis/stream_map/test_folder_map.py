"""The map of Hugging Face folders by stored names alone: which way round, which rows, which factors."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from trtllm_ext.analysis.stream_map import read_stream_map
from trtllm_ext.checkpoint import convert
from trtllm_ext.checkpoint.convert.architectures import STACK_ARCHITECTURES
from trtllm_ext.errors import CheckpointError

BUDGET_S = 1

HIDDEN, FFN, HEADS, WORDS = 8, 12, 2, 10


def folder(path, config, shapes):
    """A model folder of random weights; returns (path, its weights)."""
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    save_file(weights, path / "model.safetensors")
    return path, weights


def linear(stem, rows, columns):
    return {f"{stem}.weight": (rows, columns), f"{stem}.bias": (rows,)}


def norm(stem):
    return {f"{stem}.weight": (HIDDEN,), f"{stem}.bias": (HIDDEN,)}


def neox(path, **changes):
    layer = "gpt_neox.layers.0"
    shapes = {
        "gpt_neox.embed_in.weight": (WORDS, HIDDEN),
        "embed_out.weight": (WORDS, HIDDEN),
        **norm("gpt_neox.final_layer_norm"),
        **norm(f"{layer}.input_layernorm"),
        **norm(f"{layer}.post_attention_layernorm"),
        **linear(f"{layer}.attention.query_key_value", 3 * HIDDEN, HIDDEN),
        **linear(f"{layer}.attention.dense", HIDDEN, HIDDEN),
        **linear(f"{layer}.mlp.dense_h_to_4h", FFN, HIDDEN),
        **linear(f"{layer}.mlp.dense_4h_to_h", HIDDEN, FFN),
    }
    config = {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "use_parallel_residual": True,
    }
    return folder(path, {**config, **changes}, shapes)


def gpt2(path):
    layer = "transformer.h.0"
    shapes = {
        "transformer.wte.weight": (WORDS, HIDDEN),
        "transformer.wpe.weight": (5, HIDDEN),
        **norm("transformer.ln_f"),
        **norm(f"{layer}.ln_1"),
        **norm(f"{layer}.ln_2"),
    }
    for stem, rows, columns in (
        ("attn.c_attn", HIDDEN, 3 * HIDDEN),
        ("attn.c_proj", HIDDEN, HIDDEN),
        ("mlp.c_fc", HIDDEN, FFN),
        ("mlp.c_proj", FFN, HIDDEN),
    ):
        shapes |= {f"{layer}.{stem}.weight": (rows, columns), f"{layer}.{stem}.bias": (columns,)}
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_embd": HIDDEN,
        "n_inner": FFN,
        "n_layer": 1,
        "n_head": HEADS,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
    }
    return folder(path, config, shapes)


def test_every_architecture_says_what_is_around_it():
    assert [spec.model_type for spec in STACK_ARCHITECTURES if spec.around is None] == []


def test_rows_of_each_head_are_told_apart(tmp_path):
    path, weights = neox(tmp_path / "model")
    found = read_stream_map(path)
    assert [part.kind for part in found.parts] == ["embedding", "attention", "mlp", "final_norm", "head"]
    heads = weights["gpt_neox.layers.0.attention.query_key_value.weight"].reshape(HEADS, 3, -1, HIDDEN)
    biases = weights["gpt_neox.layers.0.attention.query_key_value.bias"].reshape(HEADS, 3, -1)
    for place, reader in enumerate(found.parts[1].readers):
        assert reader.role == "qkv"[place]
        np.testing.assert_array_equal(reader.matrix.load(), heads[:, place].reshape(HIDDEN, HIDDEN))
        np.testing.assert_array_equal(reader.bias(), biases[:, place].reshape(-1))
        np.testing.assert_array_equal(reader.gain(), weights["gpt_neox.layers.0.input_layernorm.weight"])
    assert found.parts[1].residual.parallel == found.parts[2].residual.parallel == "separate_norms"
    (head,) = found.parts[-1].readers
    np.testing.assert_array_equal(head.matrix.load(), weights["embed_out.weight"])
    np.testing.assert_array_equal(head.shift(), weights["gpt_neox.final_layer_norm.bias"])
    assert (found.missing, found.left_out) == ((), {})


def test_transposed_matrices_are_turned_round_and_the_head_is_the_embedding(tmp_path):
    path, weights = gpt2(tmp_path / "model")
    found = read_stream_map(path)
    words, positions = found.parts[0].writers
    np.testing.assert_array_equal(words.matrix.load(), weights["transformer.wte.weight"].T)
    np.testing.assert_array_equal(positions.matrix.load(), weights["transformer.wpe.weight"].T)
    whole = weights["transformer.h.0.attn.c_attn.weight"].T
    for place, reader in enumerate(found.parts[1].readers):
        np.testing.assert_array_equal(reader.matrix.load(), whole[place * HIDDEN : (place + 1) * HIDDEN])
    (fc,), (proj,) = found.parts[2].readers, found.parts[2].writers
    np.testing.assert_array_equal(fc.matrix.load(), weights["transformer.h.0.mlp.c_fc.weight"].T)
    np.testing.assert_array_equal(proj.matrix.load(), weights["transformer.h.0.mlp.c_proj.weight"].T)
    (head,) = found.parts[-1].readers
    assert head.matrix.pieces[0].name == "transformer.wte.weight"
    np.testing.assert_array_equal(head.matrix.load(), weights["transformer.wte.weight"])


def test_a_matrix_is_written_back_through_its_pieces(tmp_path):
    path, weights = gpt2(tmp_path / "model")
    reader = read_stream_map(path).parts[1].readers[1]
    copies = {name: values.copy() for name, values in weights.items()}
    new, begin = np.arange(HIDDEN * HIDDEN, dtype=np.float32).reshape(HIDDEN, HIDDEN), 0
    for piece in reader.matrix.pieces:
        view = piece.view(copies[piece.name])
        view[...] = new.reshape(-1)[begin : begin + view.size].reshape(view.shape)
        begin += view.size
    changed = copies["transformer.h.0.attn.c_attn.weight"]
    np.testing.assert_array_equal(changed[:, HIDDEN : 2 * HIDDEN], new.T)
    changed[:, HIDDEN : 2 * HIDDEN] = weights["transformer.h.0.attn.c_attn.weight"][:, HIDDEN : 2 * HIDDEN]
    assert all(np.array_equal(copies[name], weights[name]) for name in weights)


def test_a_weight_that_attention_needs_is_missed_by_name(tmp_path):
    path, weights = neox(tmp_path / "model")
    del weights["gpt_neox.layers.0.attention.dense.weight"]
    save_file(weights, path / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"no gpt_neox\.layers\.0\.attention\.dense\.weight, which reads"
    ):
        read_stream_map(path)


def bert(path):
    layer = "encoder.layer.0"
    shapes = {
        "embeddings.word_embeddings.weight": (WORDS, HIDDEN),
        "embeddings.position_embeddings.weight": (5, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
        **linear("pooler.dense", HIDDEN, HIDDEN),
        **linear(f"{layer}.intermediate.dense", FFN, HIDDEN),
        **linear(f"{layer}.output.dense", HIDDEN, FFN),
        **linear(f"{layer}.attention.output.dense", HIDDEN, HIDDEN),
    }
    for stem in ("embeddings", f"{layer}.attention.output", f"{layer}.output"):
        shapes |= norm(f"{stem}.LayerNorm")
    for role in ("query", "key", "value"):
        shapes |= linear(f"{layer}.attention.self.{role}", HIDDEN, HIDDEN)
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": WORDS,
        "hidden_size": HIDDEN,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "intermediate_size": FFN,
        "max_position_embeddings": 5,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
    }
    return folder(path, config, shapes)


def test_an_encoders_folder_and_its_checkpoint_have_the_same_map(tmp_path):
    path, weights = bert(tmp_path / "model")
    convert(path, tmp_path / "checkpoint")
    ours, theirs = read_stream_map(tmp_path / "checkpoint"), read_stream_map(path)
    assert [part.name for part in ours.parts] == [part.name for part in theirs.parts]
    assert [part.kind for part in theirs.parts] == ["embedding", "attention", "mlp", "pooler"]
    for part, other in zip(ours.parts, theirs.parts, strict=True):
        pairs = zip((*part.readers, *part.writers), (*other.readers, *other.writers), strict=True)
        for a, b in pairs:
            np.testing.assert_array_equal(a.matrix.load(), b.matrix.load())
            assert (a.bias is None) == (b.bias is None)
            if a.bias is not None:
                np.testing.assert_array_equal(a.bias(), b.bias())
    query = theirs.parts[1].readers[0].matrix
    assert query.pieces[0].name == "encoder.layer.0.attention.self.query.weight"
    np.testing.assert_array_equal(query.load(), weights[query.pieces[0].name])
    assert theirs.left_out == {}
