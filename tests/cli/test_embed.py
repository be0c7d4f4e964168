"""Sentences to vectors: what counts as a sentence, where it is cut, and which tokenizers fit."""

import json

import numpy as np
import pytest

from trtllm_ext.cli import main as cli
from trtllm_ext.runtime import Session

BUDGET_S = 12

LONG = "word " * 400


@pytest.fixture
def embed(tmp_path, capsys):
    """embed(engine, text, *options) -> exit code, vectors or None, what stderr said."""

    def run(engine, text, *options):
        capsys.readouterr()
        (tmp_path / "sentences.txt").write_bytes(text.encode())
        files = ["--sentences", str(tmp_path / "sentences.txt"), "--output", str(tmp_path / "v.npz")]
        code = cli.main(["embed", "--engine_dir", str(engine), *files, *map(str, options)])
        vectors = np.load(tmp_path / "v.npz")["sentence_embedding"] if code == 0 else None
        return code, vectors, capsys.readouterr().err

    return run


def test_the_model_s_limit_cuts_where_the_engine_takes_more(build_encoder, minilm_dir, embed):
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    engine = build_encoder(300)
    code, vectors, said = embed(engine, LONG)
    assert code == 0, said
    assert "1 of 1 sentences were cut to 256 tokens, the model's own limit (max_seq_length)" in said
    tokenizer = tokenizers.Tokenizer.from_file(str(minilm_dir / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    ids = np.array([tokenizer.encode(LONG).ids], np.int32)
    with Session.from_engine_dir(engine) as session:
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        wanted = session.run(inputs)["sentence_embedding"]
    np.testing.assert_allclose(vectors, wanted, atol=1e-6)


def test_the_engine_s_limit_cuts_where_it_is_less(encoder, embed):
    _, _, said = embed(encoder, LONG)
    assert "cut to 16 tokens, the most that this engine takes; build it with a larger --max_input_len" in said
    assert "(the model reads up to 256)" in said


def test_a_sentence_ends_at_a_newline_only(encoder, embed):
    breaks = "".join(map(chr, (0x2028, 0x2029, 0x85, 0x0B, 0x0C, 0x1C, 0x0D)))
    code, vectors, said = embed(encoder, f"one{breaks}two\r\nthree\n{breaks}\n\n")
    assert code == 0, said
    assert len(vectors) == 2, "other line breaks stay inside a sentence"
    _, wanted, _ = embed(encoder, "one two\nthree")
    np.testing.assert_allclose(vectors, wanted, atol=1e-6)


def test_a_mark_at_the_start_of_the_file_is_no_text(encoder, embed):
    _, marked, _ = embed(encoder, "\ufeffone\ntwo")
    _, plain, _ = embed(encoder, "one\ntwo")
    np.testing.assert_array_equal(marked, plain)


@pytest.mark.parametrize("length", [pytest.param(1, marks=pytest.mark.long), 2])
def test_an_engine_too_short_for_special_tokens(build_encoder, embed, length):
    code, _, said = embed(build_encoder(length), "one")
    assert code == 1
    assert (
        f"this engine's inputs of at most {length} token(s) are too short for the tokenizer's 2 special"
        in said
    )
    assert "--max_input_len 3 or more" in said


def test_three_tokens_are_enough(build_encoder, embed):
    code, vectors, said = embed(build_encoder(3), "one two")
    assert code == 0, said
    assert vectors.shape == (1, 384)


def test_ids_beyond_the_vocabulary(encoder, embed, tmp_path):
    fields = json.loads((encoder / "tokenizer.json").read_text())
    fields["model"]["vocab"]["zebra"] = 99999
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields))
    code, _, said = embed(encoder, "one\ntwo\na zebra", "--tokenizer", tmp_path)
    assert code == 1
    assert "sentence 3 has the token id 99999; this engine's vocabulary has the ids 0 to 30521" in said
    assert f"{tmp_path / 'tokenizer.json'} belongs to another model" in said
