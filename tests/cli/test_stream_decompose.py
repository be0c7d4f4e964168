"""`stream decompose` and `stream capture` as commands: what they write and what they refuse before long work."""

import json
import sys

import numpy as np
import pytest
from encoder_formulas import small_config
from safetensors.numpy import load_file
from small_encoder import word_tokenizer
from stack_forms import HIDDEN, TABLE, TOKENS, config_of, random_input

from trtllm_ext.cli.main import main
from trtllm_ext.models import write_random_checkpoint

BUDGET_S = 2
pytestmark = pytest.mark.usefixtures("one_thread")

VOCAB = 60


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A stack's checkpoint with inputs and a lens, an encoder's with sentences; a tokenizer of words."""
    folder = tmp_path_factory.mktemp("made")
    config = config_of(TABLE["fc bias only"], attention_input=True)
    write_random_checkpoint(folder / "stack", config, seed=1)
    write_random_checkpoint(folder / "encoder", small_config(), seed=2)
    (folder / "encoder" / "tokenizer.json").write_text(json.dumps(word_tokenizer()))
    given = np.random.default_rng(3).normal(size=(2, TOKENS, HIDDEN)).astype(np.float32)
    np.savez(folder / "x.npz", hidden_states=random_input(config), attention_output=given)
    (folder / "x.json").write_text(json.dumps({"tokens": [f"t{number}" for number in range(TOKENS)]}))
    np.savez(folder / "lens.npz", weight=np.random.default_rng(4).normal(size=(VOCAB, HIDDEN)))
    (folder / "sentences.txt").write_text("w1 w2 w3\nw4 w5\n")
    return folder


@pytest.fixture
def no_figures(monkeypatch):
    """Figures are the report's own affair, and take seconds."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def decompose(folder, name, *options):
    source = ["--sentences", folder / "sentences.txt"] if name == "encoder" else ["--input", folder / "x.npz"]
    command = ["stream", "decompose", "--checkpoint_dir", folder / name, *source, *options]
    return main([str(each) for each in command])


def test_a_stack_with_a_lens(made, tmp_path, capsys, no_figures):
    options = ["--lens", made / "lens.npz", "--tokenizer", made / "encoder", "--tokens", "w3,w7"]
    assert decompose(made, "stack", *options, "--output_dir", tmp_path / "out") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "0.attention" in said
    assert "add up to the stream: what the engine rounded is at most" in said
    assert "After the last token: 'w" in said
    page = (tmp_path / "out" / "report.html").read_text()
    for words in ("What each sublayer adds", "Logit lens", "Direct logit attribution", "t8"):
        assert words in page
    arrays = load_file(tmp_path / "out" / "arrays.safetensors")
    np.testing.assert_allclose(arrays["parts.share.all"].sum(0), 1, rtol=0, atol=1e-6)
    effects, logits = arrays["attribution.all"], arrays["attribution.logits"]
    assert effects.shape[1:] == (TOKENS, 2)
    np.testing.assert_allclose(effects.sum(0), logits, rtol=0, atol=1e-6 * np.abs(logits).max())
    np.testing.assert_array_equal(arrays["attribution.ids"], np.tile([7, 11], (TOKENS, 1)))


def test_an_encoder_and_directions(made, tmp_path, capsys, no_figures):
    assert decompose(made, "encoder", "--output_dir", tmp_path / "out") == 0
    effects = load_file(tmp_path / "out" / "arrays.safetensors")["pooled.effect.all"]
    similarity = effects.sum(0)
    np.testing.assert_allclose(np.diag(similarity), 1, rtol=0, atol=1e-6)
    np.testing.assert_allclose(similarity, similarity.T, rtol=0, atol=1e-6)
    np.savez(tmp_path / "directions.npz", directions=np.eye(32)[:3])
    options = ["--directions", tmp_path / "directions.npz", "--output_dir", tmp_path / "out"]
    assert decompose(made, "encoder", *options) == 0
    assert load_file(tmp_path / "out" / "arrays.safetensors")["pooled.effect.all"].shape[1:] == (2, 3)
    page = (tmp_path / "out" / "report.html").read_text().replace("<wbr>", "")
    assert "0.attention.dense.bias" in page


REFUSED = {
    "tokens without a lens": (["--tokens", "w3"], "Give --model_dir with the language model, or --lens."),
    "an unknown token": (["--tokens", "w3,wxyz"], "'wxyz' is not in the vocabulary of"),
    "two tokens": (["--tokens", "w3 w4"], "'w3 w4' is 2 tokens for"),
    "an id outside": (["--token_ids", "5,60"], "the token id 60 is outside the vocabulary of"),
    "no number": (["--token_ids", "5,x"], "--token_ids has 'x'; expected whole numbers"),
    "directions": (["--directions", "lens.npz"], "expected an array `directions`"),
    "no model": (["--model_dir", "nowhere"], "nowhere"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_is_refused_before_anything_runs(made, tmp_path, capsys, monkeypatch, what):
    monkeypatch.setattr("trtllm_ext.builder.building.trace", lambda *_: pytest.fail("an engine was built"))
    options, message = REFUSED[what]
    options = [str(made / each) if each.endswith(".npz") else each for each in options]
    if what not in ("tokens without a lens", "no model", "directions"):
        options += ["--lens", str(made / "lens.npz"), "--tokenizer", str(made / "encoder")]
    assert decompose(made, "stack", *options, "--output_dir", tmp_path / "out") == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_stack_reads_no_sentences(made, tmp_path, capsys):
    command = [
        "stream",
        "decompose",
        "--checkpoint_dir",
        made / "stack",
        "--sentences",
        made / "sentences.txt",
    ]
    assert main([str(each) for each in (*command, "--output_dir", tmp_path / "out")]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "reads hidden_states and no text" in said
    assert "opening the engine" not in said


def test_a_lens_of_another_size_is_refused(made, tmp_path, capsys):
    np.savez(tmp_path / "lens.npz", weight=np.zeros((VOCAB, 5)))
    assert decompose(made, "stack", "--lens", tmp_path / "lens.npz", "--output_dir", tmp_path / "out") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "reads a stream of 5 numbers, and this model's has 16" in said


CAPTURES = {
    "no folder": (["--model_dir", "nowhere", "--token_ids", "1"], "nowhere"),
    "no tokenizer": (["--model_dir", "{}", "--text", "w1"], "tokenizer.json does not exist"),
    "a checkpoint": (
        ["--model_dir", "{}/stack", "--token_ids", "1"],
        "is a checkpoint directory, converted already",
    ),
    "no npz": (["--model_dir", "{}", "--token_ids", "1", "--output", "{}/x.txt"], "is no .npz file"),
}


@pytest.mark.parametrize("what", CAPTURES)
def test_capture_refuses(made, tmp_path, capsys, what):
    options, message = CAPTURES[what]
    options = [each.format(made) for each in options]
    if "--output" not in options:
        options += ["--output", str(tmp_path / "y.npz")]
    assert main(["stream", "capture", *options]) == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "y.npz").exists()
