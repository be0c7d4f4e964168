"""The stream of given input, whatever pieces it runs in, and input and engines that do not fit."""

import numpy as np
import pytest
from encoder_formulas import sentences, small_config
from small_encoder import word_tokenizer
from stack_forms import HIDDEN, TABLE, TOKENS, config_of, random_input

from trtllm_ext.analysis.running.engines import tapped_engine, weights_of
from trtllm_ext.analysis.running.running import needed_taps, sentence_rows, stream_of
from trtllm_ext.builder import BuildConfig, build_engine_dir
from trtllm_ext.checkpoint import load_checkpoint
from trtllm_ext.errors import ConfigError, EngineError, InputError
from trtllm_ext.models import write_random_checkpoint
from trtllm_ext.verify.formulas import evaluate, points_of

BUDGET_S = 2
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """A checkpoint with given attention and engines of it: 'whole', 'cut' to 4 tokens a run, 'untapped'; its input."""
    folder = tmp_path_factory.mktemp("stack")
    config = config_of(TABLE["wide sandwich"], "bfloat16", attention_input=True)
    write_random_checkpoint(folder / "checkpoint", config, seed=4)
    for name, most, taps in (
        ("whole", 32, ("*",)),
        ("cut", 4, ("*",)),
        ("untapped", 32, ("*.contribution",)),
    ):
        build_engine_dir(folder / "checkpoint", folder / name, BuildConfig(max_num_tokens=most, taps=taps))
    given = np.random.default_rng(8).normal(size=(2, TOKENS, HIDDEN)).astype(np.float32)
    return folder, {"hidden_states": random_input(config), "attention_output": given}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A checkpoint with a tokenizer, and an engine of it with taps for up to 2 sentences of 12 tokens."""
    import json

    folder = tmp_path_factory.mktemp("encoder")
    write_random_checkpoint(folder / "checkpoint", small_config(), seed=2)
    (folder / "checkpoint" / "tokenizer.json").write_text(json.dumps(word_tokenizer()))
    limits = BuildConfig(max_batch_size=2, max_input_len=12, taps=("*",))
    build_engine_dir(folder / "checkpoint", folder / "engine", limits)
    return folder


def test_runs_of_few_tokens_give_what_one_gives(stack):
    folder, inputs = stack
    whole, cut = stream_of(folder / "whole", inputs), stream_of(folder / "cut", inputs)
    assert whole.starts == cut.starts == (0, TOKENS)
    assert whole.stream_dtype == "float32"
    for part in whole.parts:
        for point in ("before", "contribution", "after"):
            one, other = getattr(whole, point)[part.name], getattr(cut, point)[part.name]
            assert one.shape == (TOKENS, HIDDEN)
            np.testing.assert_allclose(other, one, rtol=0, atol=1e-6)
    told = []
    stream_of(folder / "cut", inputs, progress=lambda *each: told.append(each))
    assert told == [("running the engine", done, TOKENS) for done in (4, 8, 9)]


def test_numbers_are_those_of_the_formulas(encoder):
    """Sentences of several lengths, out of order, in runs of two: each row is its own token's."""
    inputs = sentences()
    run = stream_of(encoder / "engine", inputs)
    weights = load_checkpoint(encoder / "checkpoint").weights
    values = evaluate(points_of(run.config, weights), inputs).values
    keep = inputs["attention_mask"] != 0
    np.testing.assert_array_equal(run.inputs["input_ids"], inputs["input_ids"][keep])
    np.testing.assert_array_equal(run.inputs["positions"], np.nonzero(keep)[1])
    for part in run.parts:
        for point in ("before", "contribution", "after"):
            got = getattr(run, point)[part.name]
            assert np.abs(got - values[f"{part.name}.{point}"][keep]).max() <= 1e-5, (part, point)
    assert np.abs(run.pooled - values["sentence_embedding"]).max() <= 1e-6
    assert [rows.stop - rows.start for rows in sentence_rows(run)] == keep.sum(1).tolist()


def test_sentences_are_their_tokens(encoder):
    texts = ["w1 w2 w3 w4 w5", "w7", "w9 w2 w40"]
    run = stream_of(encoder / "engine", sentences=texts)
    assert run.starts == (0, 7, 10, 15)
    assert run.tokens[7:10] == ("[CLS]", "w7", "[SEP]")
    ids = np.zeros((3, 7), np.int32)
    for row, rows in zip(ids, sentence_rows(run), strict=True):
        row[: rows.stop - rows.start] = run.inputs["input_ids"][rows]
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).astype(np.int32), "token_type_ids": 0 * ids}
    again = stream_of(encoder / "engine", inputs)
    assert again.tokens == run.tokens
    np.testing.assert_allclose(again.output, run.output, rtol=0, atol=1e-6)
    np.testing.assert_allclose(again.pooled, run.pooled, rtol=0, atol=1e-6)


def test_an_engine_s_own_weights_are_its_checkpoint_s(encoder):
    own, wanted = weights_of(encoder / "engine", None), load_checkpoint(encoder / "checkpoint").weights
    assert set(own) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(own[name], value)


def test_an_engine_without_the_taps_is_refused(stack):
    folder, inputs = stack
    assert "transformer.layers.1.mlp.after" in needed_taps(stream_of(folder / "whole", inputs).config)
    with pytest.raises(
        EngineError,
        match=r"without the tap transformer\.layers\.0\.attention\.before and 7 more.*--taps '\*'",
    ):
        stream_of(folder / "untapped", inputs)


def test_either_an_engine_or_a_checkpoint(stack, monkeypatch):
    folder, inputs = stack
    with tapped_engine(checkpoint_dir=folder / "checkpoint") as engine:
        assert engine.is_dir()
        run = stream_of(engine, inputs)
    assert not engine.exists()
    np.testing.assert_allclose(run.output, stream_of(folder / "whole", inputs).output, rtol=0, atol=1e-6)
    with pytest.raises(ConfigError, match="neither of --engine_dir and --checkpoint_dir"), tapped_engine():
        pass
    monkeypatch.setattr("trtllm_ext.analysis.running.engines.MOST_BYTES", 100)
    too_large = r"GiB of weights.*trtllm-ext build --checkpoint_dir .* --taps '\*'"
    with pytest.raises(ConfigError, match=too_large), tapped_engine(checkpoint_dir=folder / "checkpoint"):
        pass


BAD_ARRAYS = {
    "unknown": (lambda x: {**x, "attention": x["hidden_states"]}, "'attention' is not an input"),
    "missing": (lambda x: {"hidden_states": x["hidden_states"]}, "'attention_output' is missing"),
    "hidden size": (
        lambda x: {**x, "hidden_states": x["hidden_states"][:, :5]},
        r"shape \(9, 5\), and the engine takes",
    ),
    "type": (lambda x: {**x, "hidden_states": x["hidden_states"] > 0}, r"is bool; expected float32"),
    "tokens": (
        lambda x: {**x, "attention_output": x["attention_output"][:, :4]},
        r"beside 9 rows of hidden_states",
    ),
    "none": (lambda x: {**x, "hidden_states": x["hidden_states"][:0]}, "a token or more"),
}


@pytest.mark.parametrize("what", BAD_ARRAYS)
def test_arrays_that_do_not_fit_are_refused(stack, what):
    folder, inputs = stack
    change, message = BAD_ARRAYS[what]
    with pytest.raises(InputError, match=message):
        stream_of(folder / "whole", change(inputs))


def test_sentences_that_do_not_fit_are_refused(encoder):
    engine = encoder / "engine"
    with pytest.raises(InputError, match=r"sentence 2 is longer than 12 tokens.*--max_input_len"):
        stream_of(engine, sentences=["w1", "w1 " * 20])
    ids = np.ones((1, 13), np.int32)
    with pytest.raises(InputError, match=r"13 tokens a sentence.*at most 12.*--max_input_len 13"):
        stream_of(engine, {"input_ids": ids, "attention_mask": ids, "token_type_ids": 0 * ids})
    ids = np.full((2, 3), 60, np.int32)
    with pytest.raises(InputError, match=r"'input_ids' has 60; expected ids of 0 to 59"):
        stream_of(engine, {"input_ids": ids, "attention_mask": 0 * ids + 1, "token_type_ids": 0 * ids})
    with pytest.raises(InputError, match="sentence 1 is nothing but padding"):
        stream_of(engine, {"input_ids": ids - 1, "attention_mask": 0 * ids, "token_type_ids": 0 * ids})
    with pytest.raises(ConfigError, match="give either inputs"):
        stream_of(engine)
