"""Sentences to vectors: what comes out for each, how they are grouped into runs, and which engines are refused."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_encoder import expected_vectors, make_encoder

from trtllm_ext.errors import EngineError
from trtllm_ext.models.sentence_encoder import SentenceEncoder, batches, was_cut
from trtllm_ext.runtime import Session

BUDGET_S = 5

SENTENCES = [
    " ".join(f"w{(7 * place + number) % 50}" for place in range(number)) for number in (9, 1, 5, 3, 14, 2)
]
LONG = "w1 w2 w3 " * 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder")
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    make_encoder(path)
    return path


@pytest.fixture
def session(folder, one_thread):
    with Session.from_engine_dir(folder / "engine") as opened:
        yield opened


def test_each_sentence_is_what_it_is_alone(folder, session):
    """Sentences come out in the order they went in, whatever they are batched and padded with."""
    encoder = SentenceEncoder(session)
    got = encoder.encode(SENTENCES)
    assert got.shape == (len(SENTENCES), encoder.hidden_size)
    np.testing.assert_allclose(got, expected_vectors(folder / "checkpoint", SENTENCES), atol=2e-5)
    alone = np.concatenate([encoder.encode([each]) for each in SENTENCES])
    np.testing.assert_allclose(got, alone, atol=1e-6)


def test_what_is_cut_is_known(folder, session):
    encoder = SentenceEncoder(session)
    tokens = encoder.tokenize([LONG, *SENTENCES, LONG])
    assert [was_cut(each) for each in tokens] == [True, *([False] * len(SENTENCES)), True]
    just = " ".join(["w5"] * 18)
    assert [was_cut(each) for each in encoder.tokenize([just, just + " w5"])] == [False, True]
    np.testing.assert_allclose(
        encoder.encode_tokens(tokens[:1]), expected_vectors(folder / "checkpoint", [LONG]), atol=2e-5
    )


def test_callers_in_several_threads(folder, session):
    """Each gets the bits that it gets alone, while others have sentences that are cut."""
    encoder, got = SentenceEncoder(session), {}
    texts = {number: [SENTENCES[number], LONG] if number % 2 else [SENTENCES[number]] for number in range(6)}
    wanted = {number: encoder.encode(each) for number, each in texts.items()}

    def call(number):
        got[number] = [encoder.encode(texts[number]) for _ in range(20)]

    threads = [threading.Thread(target=call, args=(number,)) for number in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, each in wanted.items():
        assert {vectors.tobytes() for vectors in got[number]} == {each.tobytes()}


def change_pooling(session, change):
    """As if the engine's model had another pooling."""
    config = session.engine_dir.config["pretrained_config"]
    change(config["contract"]["pooling"])
    config.pop("sha256", None)


def test_a_model_too_short_for_special_tokens(session):
    change_pooling(session, lambda pooling: pooling.update(max_seq_length=2))
    with pytest.raises(EngineError, match=r"at most 2 token.* model's own limit, which no build") as caught:
        SentenceEncoder(session)
    assert "--max_input_len" not in str(caught.value)


def test_an_engine_of_another_version_s_contract(session):
    change_pooling(session, lambda pooling: pooling.pop("max_seq_length"))
    with pytest.raises(EngineError, match=r"lacks the field 'max_seq_length'.* Build it again"):
        SentenceEncoder(session)


@given(st.lists(st.integers(1, 512), max_size=60), st.integers(1, 2048))
def test_every_sentence_is_in_one_batch_within_the_limits(lengths, most_rows):
    made = list(batches(lengths, most_rows))
    assert sorted(index for batch in made for index in batch) == list(range(len(lengths)))
    for batch in made:
        padded = len(batch) * max(lengths[index] for index in batch)
        assert len(batch) <= most_rows
        assert padded <= 8192 or len(batch) == 1
        real = sum(lengths[index] for index in batch)
        assert padded - real <= max(128, real // 2)


def test_as_few_batches_as_the_limits_allow():
    assert [len(batch) for batch in batches([8] * 10, 4)] == [4, 4, 2]
    assert [len(batch) for batch in batches([512] * 40, 2048)] == [16, 16, 8]
    assert list(batches([], 4)) == []
    assert list(batches([10, 60, 20, 40], 4)) == [[0, 2, 3, 1]], "little padding"


def test_one_long_sentence_does_not_pad_many_short_ones():
    assert list(batches([200, *[10] * 31], 32)) == [list(range(1, 32)), [0]]
    made = list(batches(list(range(5, 505, 5)), 100))
    for batch in made:
        real = [5 + 5 * index for index in batch]
        assert len(batch) * max(real) - sum(real) <= max(128, sum(real) // 2)
    assert len(made) < 12
