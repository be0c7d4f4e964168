"""Sentences to vectors as a server runs them: whatever requests are joined, each gets its own, or a reason."""

import asyncio

import numpy as np
import pytest
from small_encoder import expected_vectors, make_encoder

from trtllm_ext.errors import EngineError, InputError
from trtllm_ext.runtime import Session
from trtllm_ext.serve.batcher import Batcher
from trtllm_ext.serve.text_runner import MOST_BYTES, MOST_SENTENCES, TextRunner

BUDGET_S = 4

LONG = "w1 w2 w3 " * 10


def text(*sentences):
    return {"text": np.array([each.encode() for each in sentences], np.object_)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    path = tmp_path_factory.mktemp("encoder")
    make_encoder(path)
    return path


@pytest.fixture
def runner(folder, one_thread):
    made = TextRunner(Session.from_engine_dir(folder / "engine"))
    yield made
    made.close()


def test_what_it_tells_of_itself(runner):
    specs = [(spec.name, spec.datatype, spec.shape) for spec in (*runner.inputs, *runner.outputs)]
    assert specs == [
        ("text", "BYTES", (-1,)),
        ("sentence_embedding", "FP32", (-1, 32)),
        ("is_cut", "BOOL", (-1,)),
    ]
    assert runner.description["architecture"] == "Encoder"
    assert runner.description["max_tokens"] == "20"


def test_requests_that_run_together_are_what_they_are_alone(folder, runner):
    requests = [
        ["w5 w6 w7"],
        [LONG, "w9"],
        ["W5 w6\tw7", "no such word", ""],
        [f"w{number}" for number in range(9)],
    ]
    ran = []

    class Observer:
        def ran(self, requests, rows, waited_s, took_s):
            ran.append((requests, rows))

    async def ask():
        # They wait for as long as a batch is not full: of four sentences, as the engine takes.
        batcher = Batcher(runner, max_delay_s=0.2, observer=Observer())
        batcher.start()
        answers = await asyncio.gather(*(batcher.submit(text(*each)) for each in requests))
        await asyncio.to_thread(batcher.close)
        return answers

    answers = asyncio.run(ask())
    assert ran[0][0] > 1, "some were joined"
    assert sum(rows for _, rows in ran) == 15
    for sentences, answer in zip(requests, answers, strict=True):
        wanted = expected_vectors(folder / "checkpoint", sentences)
        assert answer["sentence_embedding"].dtype == np.float32
        np.testing.assert_allclose(answer["sentence_embedding"], wanted, atol=2e-5)
        assert answer["is_cut"].tolist() == [each is LONG for each in sentences]


@pytest.mark.parametrize(
    "sentences, sentence",
    [
        ([], f"holds 0 sentences; a request has 1 to {MOST_SENTENCES}"),
        ([b"w1"] * (MOST_SENTENCES + 1), f"holds {MOST_SENTENCES + 1} sentences"),
        ([b"w1", b"caf\xe9"], "sentence 2 is not UTF-8: byte 3 is 0xe9"),
        ([b"x" * MOST_BYTES] * 65, f"has {65 * MOST_BYTES} bytes; a request has at most {64 * MOST_BYTES}"),
        ([b"x" * (MOST_BYTES + 1)], f"sentence 1 has {MOST_BYTES + 1} bytes; at most {MOST_BYTES}"),
    ],
    ids=["none", "too many", "latin-1", "too much", "too long"],
)
def test_what_is_refused(runner, sentences, sentence):
    with pytest.raises(InputError) as caught:
        runner.check({"text": np.array(sentences, np.object_)})
    assert sentence in str(caught.value)
    runner.check(text("ä" * (MOST_BYTES // 2)))


def test_another_model_s_tokenizer_is_told_of_without_its_path(folder, one_thread, tmp_path, caplog):
    changed = (folder / "engine" / "tokenizer.json").read_text().replace('"w8": 12', '"w8": 999')
    (tmp_path / "tokenizer.json").write_text(changed)
    with Session.from_engine_dir(folder / "engine") as session:
        runner = TextRunner(session, str(tmp_path))
        runner.run(text("w7"))
        with pytest.raises(InputError, match="no embedding for: the server's tokenizer") as caught:
            runner.run(text("w7 w8"))
    assert str(tmp_path) not in str(caught.value)
    assert str(tmp_path) in caplog.text, "the log has it"


def test_an_engine_that_is_no_encoder(tmp_path, one_thread):
    from trtllm_ext.builder import BuildConfig, build_engine_dir
    from trtllm_ext.models import sublayer_stack_config, write_random_checkpoint

    config = sublayer_stack_config(hidden_size=8, ffn_hidden_size=8, num_hidden_layers=1)
    write_random_checkpoint(tmp_path / "checkpoint", config)
    build_engine_dir(tmp_path / "checkpoint", tmp_path / "engine", BuildConfig(max_num_tokens=4))
    with Session.from_engine_dir(tmp_path / "engine") as session, pytest.raises(EngineError) as caught:
        TextRunner(session)
    told = "this engine takes hidden_states and gives hidden_states_out; sentences need an encoder"
    assert told in str(caught.value)
