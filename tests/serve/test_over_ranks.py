"""What a server on rank 0 is given to run, all ranks run: in this process, without the server around it."""

import threading
import time

import numpy as np
import pytest
from encoder_formulas import small_config
from ranked_services import service_engine
from small_encoder import expected_vectors, make_encoder

from trtllm_ext.errors import ConfigError, RankError
from trtllm_ext.models import write_random_checkpoint
from trtllm_ext.parallel import run_ranks
from trtllm_ext.runtime import Rehearsal, Session
from trtllm_ext.serve.over_ranks import Leaving, serve_over_ranks
from trtllm_ext.serve.session_runner import SessionRunner
from trtllm_ext.serve.text_runner import TextRunner

BUDGET_S = 3

TIMEOUT_S = 1.0

pytestmark = pytest.mark.usefixtures("one_thread")


def served(engine, serve):
    """`serve_over_ranks` on two ranks of this process."""

    def rank(end):
        with Session.from_engine_dir(engine, communicator=end) as session:
            serve_over_ranks(session, end, serve)

    run_ranks(2, rank, TIMEOUT_S)


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    return service_engine(tmp_path_factory.mktemp("stack"))


def test_tensors_have_the_bits_of_a_rehearsal(stack):
    answers = []
    x = np.random.default_rng(1).normal(size=(7, 64)).astype(np.float32)

    def serve(session, leaving):
        runner = SessionRunner(session)
        assert runner.description["world_size"] == "2"
        for _ in range(2):
            runner.check({"hidden_states": x})
            answers.append(runner.run({"hidden_states": x})["hidden_states_out"].copy())
            time.sleep(1.2 * TIMEOUT_S)
        runner.close()

    served(stack, serve)
    with Rehearsal(stack) as rehearsal:
        expected = rehearsal.run({"hidden_states": x})[0]["hidden_states_out"]
    assert [each.tobytes() for each in answers] == [expected.tobytes()] * 2


def test_sentences_over_ranks(tmp_path):
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    engine = make_encoder(tmp_path, tp_size=2, seed=2)
    sentences = ["w1 w2 w3", "w4", "w5 " * 30, "w6 w7 w8 w9", "w3 w2 w1"]
    answers = {}

    def serve(session, leaving):
        runner = TextRunner(session)
        answers.update(runner.run({"text": np.array([each.encode() for each in sentences], np.object_)}))

    served(engine, serve)
    write_random_checkpoint(tmp_path / "whole", small_config(), seed=2)
    wanted = expected_vectors(tmp_path / "whole", sentences)
    np.testing.assert_allclose(answers["sentence_embedding"], wanted, atol=2e-5)
    assert answers["is_cut"].tolist() == [False, False, True, False, False]


def test_a_server_that_does_not_start_is_an_error_on_all_ranks(stack):
    def serve(session, leaving):
        raise ConfigError("--http_port 8000 is taken.")

    with pytest.raises(RankError, match=r"^rank 0: --http_port 8000 is taken\.$"):
        served(stack, serve)


def test_asking_a_server_to_leave():
    """Before it is there, while it is, from many threads: it hears of it."""
    heard = []
    early = Leaving()
    early.ask()
    early.is_done_by(lambda: heard.append("early"))
    assert heard == ["early"]
    leaving = Leaving()
    leaving.is_done_by(lambda: heard.append("asked"))
    assert heard == ["early"]
    threads = [threading.Thread(target=leaving.ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == ["early", *["asked"] * 4]
