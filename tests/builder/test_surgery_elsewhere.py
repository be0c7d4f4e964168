"""Engines with surgery in what else is done with engines: ranks, verify, refit, ONNX, Triton, the server, sentences."""

import json
from dataclasses import replace

import numpy as np
import pytest
from operated import random_changes, reference
from small_encoder import expected_vectors, make_encoder
from stack_forms import HIDDEN, TABLE, TOKENS, checkpoint, config_of, random_input

import trtllm_ext as tx
from trtllm_ext.builder import Engine, export_onnx, refit_engine_dir
from trtllm_ext.builder.triton import export_triton
from trtllm_ext.checkpoint import load_whole
from trtllm_ext.errors import BuildError, InputError
from trtllm_ext.models import write_random_checkpoint
from trtllm_ext.models.sentence_encoder import SentenceEncoder
from trtllm_ext.parallel import Mapping
from trtllm_ext.runtime import Rehearsal
from trtllm_ext.verify import ranks as verified_ranks
from trtllm_ext.verify import verify_engine

BUDGET_S = 4

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = config_of(TABLE["llama_swiglu"], layers=2)
X = {"hidden_states": random_input(CONFIG)}
SETTINGS = {"max_num_tokens": 32, "surgery": ["*"], "use_refit": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("surgery")
    checkpoint(path / "checkpoint", CONFIG)
    tx.build_engine_dir(path / "checkpoint", path / "engine", tx.BuildConfig(**SETTINGS, taps=["*"]))
    return path


def changes_of(path):
    return random_changes(Engine.from_dir(path / "engine"), X)


def check(got, checkpoint_dir, changes, name="hidden_states_out"):
    whole = load_whole(checkpoint_dir)
    expected = reference(whole.config, whole.weights, X, changes)[name]
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 5e-6 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("name", "is_dealt"),
    [
        ("gemma2_sandwich", True),
        ("gptj_parallel", False),
        pytest.param("wide streams", True, marks=pytest.mark.long),
        pytest.param("t5_clamped", True, marks=pytest.mark.long),
        pytest.param("bert", False, marks=pytest.mark.long),
    ],
)
def test_ranks_are_changed_together(tmp_path, name, is_dealt):
    """9 tokens over 2 ranks: where they are dealt out, a rank takes its own rows of what is added."""
    config = config_of(TABLE[name], layers=2)
    shared = replace(config, mapping=Mapping(world_size=2, tp_size=2))
    write_random_checkpoint(tmp_path / "checkpoint", shared, seed=1)
    settings = {"max_num_tokens": 32, "surgery": ["*"], "sequence_parallel": is_dealt, "taps": ["*.after"]}
    tx.build_engine_dir(tmp_path / "checkpoint", tmp_path / "engine", tx.BuildConfig(**settings))
    changes = changes_of(tmp_path)
    with Rehearsal([Engine.from_dir(tmp_path / "engine", rank) for rank in (0, 1)]) as ranks:
        assert ranks.run(X)[0]["hidden_states_out"].shape == (TOKENS, HIDDEN)
    with Rehearsal(tmp_path / "engine") as ranks:
        for asked in ({}, changes):
            outputs = ranks.run({**X, **asked})
            for key, value in outputs[0].items():
                assert value.tobytes() == outputs[1][key].tobytes(), key
                check(value, tmp_path / "checkpoint", asked, key)
        other = {key: value + 1 for key, value in changes.items()}
        with pytest.raises(InputError, match="has other values on rank 1 than on rank 0"):
            ranks.run([{**X, **changes}, {**X, **other}])
    assert all(
        each.is_right
        for each in verified_ranks.verify(tmp_path / "checkpoint", engine_dir=tmp_path / "engine")
    )


def test_verify_takes_runs_as_they_are_and_changed_ones(folder):
    for inputs in (None, X, {**X, **changes_of(folder)}):
        report = verify_engine(folder / "engine", folder / "checkpoint", inputs=inputs)
        assert report.is_right, report.verdict
        assert len(report.rows) == 7


def test_other_weights_are_changed_the_same_way(folder, tmp_path):
    checkpoint(tmp_path / "other", CONFIG, seed=2)
    refit_engine_dir(folder / "engine", tmp_path / "other", tmp_path / "engine")
    asked = changes_of(tmp_path)
    with tx.Session.from_engine_dir(tmp_path / "engine") as session:
        check(session.run({**X, **asked})["hidden_states_out"], tmp_path / "other", asked)


def test_an_onnx_file_has_the_inputs_and_says_what_changes_nothing(folder, tmp_path):
    import onnx
    import onnxruntime

    export_onnx(folder / "checkpoint", tmp_path / "m.onnx", engine_dir=folder / "engine")
    told = {each.key: each.value for each in onnx.load(tmp_path / "m.onnx").metadata_props}
    values = json.loads(told["trtllm_ext.surgery"])
    asked = changes_of(folder)
    assert values.keys() == asked.keys()
    run = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"]).run
    check(run(["hidden_states_out"], {**X, **asked})[0], folder / "checkpoint", asked)
    nothing = {name: np.full_like(value, values[name]) for name, value in asked.items()}
    check(run(["hidden_states_out"], {**X, **nothing})[0], folder / "checkpoint", {})


def test_triton_is_refused_with_the_reason(folder, tmp_path):
    with pytest.raises(
        BuildError, match=r"whose inputs Triton would ask of every request.* without --surgery"
    ):
        export_triton(folder / "engine", tmp_path, checkpoint_dir=folder / "checkpoint")


def test_a_server_does_not_offer_them(folder):
    from trtllm_ext.serve.session_runner import SessionRunner

    with tx.Session.from_engine_dir(folder / "engine") as session:
        runner = SessionRunner(session)
        assert [spec.name for spec in runner.inputs] == ["hidden_states"]
        requests = [{"hidden_states": X["hidden_states"][:count]} for count in (3, 6)]
        extents = [runner.joining.extent(request) for request in requests]
        outputs = runner.run(runner.joining.join(list(zip(requests, extents, strict=True))))
        assert outputs["hidden_states_out"].shape == (TOKENS, HIDDEN)
        check(session.run(X)["hidden_states_out"], folder / "checkpoint", {})


def test_sentences_leave_them_out(tmp_path):
    make_encoder(tmp_path)
    settings = tx.BuildConfig(max_batch_size=4, max_input_len=20, surgery=["*"])
    tx.build_engine_dir(tmp_path / "checkpoint", tmp_path / "changed", settings)
    sentences = ["w1 w2 w3", "w7", "w5 w2 w9 w11"]
    with tx.Session.from_engine_dir(tmp_path / "changed") as session:
        vectors = SentenceEncoder(session).encode(sentences)
    np.testing.assert_allclose(vectors, expected_vectors(tmp_path / "checkpoint", sentences), atol=1e-5)
