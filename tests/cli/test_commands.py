"""The commands, each from its arguments to what it prints and writes."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import trtllm_ext as tx
from trtllm_ext.checkpoint import FORMS, stack_config
from trtllm_ext.cli import main as cli
from trtllm_ext.models import sublayer_stack_config, write_random_checkpoint
from trtllm_ext.runtime.envelope import Envelope, PluginSummary

BUDGET_S = 40
HIDDEN = 16


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint")
    write_random_checkpoint(
        path, sublayer_stack_config(hidden_size=HIDDEN, ffn_hidden_size=32, num_hidden_layers=2)
    )
    return path


@pytest.fixture(scope="module")
def engine(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("engines") / "engine"
    assert (
        cli.main(
            ["build", "--checkpoint_dir", str(checkpoint), "--output_dir", str(path), "--max_num_tokens", "8"]
        )
        == 0
    )
    return path


@pytest.fixture(autouse=True)
def plain_errors(monkeypatch):
    monkeypatch.delenv("TRTLLM_EXT_TRACEBACK", raising=False)


def fails(capsys, *arguments):
    capsys.readouterr()
    assert cli.main([str(each) for each in arguments]) == 1
    return capsys.readouterr().err


def tokens(count=3):
    return np.random.default_rng(1).normal(size=(count, HIDDEN)).astype(np.float32)


# --- build ----------------------------------------------------------------------------------------------------


def test_build_says_what_it_made(checkpoint, tmp_path, capsys):
    arguments = [
        "build",
        "--checkpoint_dir",
        checkpoint,
        "--output_dir",
        tmp_path / "engine",
        "--max_num_tokens",
        "8",
    ]
    assert cli.main([*map(str, arguments), "--opt_num_tokens", "4"]) == 0
    told = capsys.readouterr()
    assert "embedded engine for cpu" in told.out
    assert f"in   hidden_states float32 (1, {HIDDEN}) to (8, {HIDDEN})" in told.out
    assert "build: rank 0: building" in told.err


def test_flags_win_over_the_file(checkpoint, tmp_path, capsys):
    (tmp_path / "build.json").write_text(json.dumps({"max_num_tokens": 64, "opt_num_tokens": 2}))
    assert (
        cli.main(
            [
                *("build", "--checkpoint_dir", str(checkpoint), "--output_dir", str(tmp_path / "engine")),
                *("--build_config", str(tmp_path / "build.json"), "--max_num_tokens", "16"),
            ]
        )
        == 0
    )
    config = json.loads((tmp_path / "engine" / "config.json").read_text())["build_config"]
    assert (config["max_num_tokens"], config["opt_num_tokens"]) == (16, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--max_batch_size", "4"],
            "max_batch_size=4 counts sequences, which the SublayerStack has no use for",
        ),
        # Given on purpose, though it is the default.
        (
            ["--max_input_len", "1024"],
            "max_input_len=1024 is the length of one sequence, which the SublayerStack",
        ),
        (
            ["--max_num_tokens", "8", "--opt_num_tokens", "9"],
            "opt_num_tokens=9 is greater than max_num_tokens=8",
        ),
        (["--max_num_tokens", "0"], "max_num_tokens=0 is too small"),
        (["--output_timing_cache", "no/dir"], "output_timing_cache='no/dir': there is no directory no"),
        (["--build_config", "none.json"], "none.json does not exist"),
        (["--profiling_verbosity", "loud"], "profiling_verbosity='loud' is not known"),
    ],
)
def test_builds_that_are_refused(checkpoint, tmp_path, capsys, arguments, message):
    told = fails(
        capsys, "build", "--checkpoint_dir", checkpoint, "--output_dir", tmp_path / "engine", *arguments
    )
    assert message in told
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_writes_nothing(checkpoint, tmp_path, capsys):
    arguments = ["build", "--checkpoint_dir", checkpoint, "--output_dir", tmp_path / "engine", "--dry_run"]
    assert cli.main([str(each) for each in arguments]) == 0
    assert "nothing was built" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


# --- run ------------------------------------------------------------------------------------------------------


def test_run(engine, tmp_path, capsys):
    np.savez(tmp_path / "x.npz", hidden_states=tokens())
    arguments = ["run", "--engine_dir", engine, "--input", tmp_path / "x.npz", "--output", tmp_path / "y.npz"]
    for mode in ("prepack", "mapped"):
        assert cli.main([*map(str, arguments), "--load_mode", mode]) == 0
        with np.load(tmp_path / "y.npz") as outputs:
            assert outputs.files == ["hidden_states_out"]
            assert outputs["hidden_states_out"].shape == (3, HIDDEN)
    assert "hidden_states_out float32 (3, 16)" in capsys.readouterr().out
    # A file that numpy keeps in column order is read as what it means.
    np.savez(tmp_path / "f.npz", hidden_states=np.asfortranarray(tokens()))
    arguments[4], arguments[6] = tmp_path / "f.npz", tmp_path / "z.npz"
    assert cli.main([str(each) for each in arguments]) == 0
    np.testing.assert_array_equal(
        np.load(tmp_path / "y.npz")["hidden_states_out"], np.load(tmp_path / "z.npz")["hidden_states_out"]
    )


def test_run_with_bfloat16(tmp_path):
    import ml_dtypes

    config = sublayer_stack_config(
        hidden_size=HIDDEN, ffn_hidden_size=32, num_hidden_layers=1, dtype="bfloat16"
    )
    write_random_checkpoint(tmp_path / "checkpoint", config)
    paths = ["--checkpoint_dir", str(tmp_path / "checkpoint"), "--output_dir", str(tmp_path / "engine")]
    assert cli.main(["build", *paths, "--max_num_tokens", "8"]) == 0
    np.savez(tmp_path / "x.npz", hidden_states=tokens().astype(ml_dtypes.bfloat16))
    assert np.load(tmp_path / "x.npz")["hidden_states"].dtype.kind == "V"
    files = ["--input", str(tmp_path / "x.npz"), "--output", str(tmp_path / "y.npz")]
    assert cli.main(["run", "--engine_dir", str(tmp_path / "engine"), *files]) == 0
    y = np.load(tmp_path / "y.npz")["hidden_states_out"].view(ml_dtypes.bfloat16)
    assert np.isfinite(y.astype(np.float32)).all()


def test_runs_that_are_refused(engine, tmp_path, capsys):
    good, output = tmp_path / "x.npz", tmp_path / "y.npz"
    np.savez(good, hidden_states=tokens())

    def refused(source=good, target=output, engine_dir=engine):
        return fails(capsys, "run", "--engine_dir", engine_dir, "--input", source, "--output", target)

    def written(**arrays):
        np.savez(tmp_path / "bad.npz", **arrays)
        return tmp_path / "bad.npz"

    assert "none.npz does not exist" in refused(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("text")
    said = refused(tmp_path / "text.npz")
    assert "text.npz is not an .npz file of plain arrays (it is no zip archive, or not all of one)" in said
    assert f"{tmp_path} is a directory; expected an .npz file of named arrays" in refused(tmp_path)
    np.save(tmp_path / "single.npy", tokens())
    told = refused(tmp_path / "single.npy")
    assert "holds a single array without a name" in told
    assert told.count("numpy.savez") == 1
    assert "is not an .npz file of plain arrays (it holds Python objects)" in refused(
        written(hidden_states=np.array([{}], object))
    )
    (tmp_path / "cut.npz").write_bytes(good.read_bytes()[:-30])
    assert "is not an .npz file of plain arrays" in refused(tmp_path / "cut.npz")
    assert "unknown input 'x'" in refused(written(x=tokens()))
    assert "has type float64; expected float32" in refused(written(hidden_states=tokens().astype(float)))
    assert "dimension 0 (num_tokens) is 9, allowed 1 to 8" in refused(written(hidden_states=tokens(9)))
    assert "dimension 0 (num_tokens) is 0, allowed 1 to 8" in refused(written(hidden_states=tokens(0)))
    assert "does not exist; expected an engine directory" in refused(engine_dir=tmp_path / "none")
    assert not output.exists()
    assert "there is no directory" in refused(target=tmp_path / "none" / "y.npz")
    assert "it is a directory" in refused(target=tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir() if each.name.startswith(".")) == []


def test_run_checks_the_output_before_anything_else(tmp_path, capsys):
    """The engine and the input do not exist: the output is looked at first."""
    source = tmp_path / "x.npz"

    def refused(target):
        return fails(capsys, "run", "--engine_dir", tmp_path / "none", "--input", source, "--output", target)

    os.mkfifo(tmp_path / "pipe")
    assert "pipe: it is no regular file (a device, a pipe or a socket)" in refused(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()
    np.savez(source, hidden_states=tokens())
    (tmp_path / "link").symlink_to(source)
    before = source.read_bytes()
    for target in (source, tmp_path / "link", tmp_path / "." / ".." / tmp_path.name / "x.npz"):
        assert f"--output {target} is the input file {source}, which it would replace" in refused(target)
    assert source.read_bytes() == before


def test_embed_checks_the_output_before_anything_else(tmp_path, capsys):
    sentences, tokenizer = tmp_path / "s.txt", tmp_path / "tokenizer.json"
    for file in (sentences, tokenizer):
        file.write_text("One.")
        files = ["--sentences", sentences, "--tokenizer", tokenizer, "--output", file]
        told = fails(capsys, "embed", "--engine_dir", tmp_path / "none", *files)
        assert f"--output {file} is the input file {file}, which it would replace" in told
        assert file.read_text() == "One."
    os.mkfifo(tmp_path / "pipe")
    files = ["--sentences", sentences, "--output", tmp_path / "pipe"]
    assert "it is no regular file" in fails(capsys, "embed", "--engine_dir", tmp_path / "none", *files)


def test_run_writes_through_a_link(engine, tmp_path):
    np.savez(tmp_path / "x.npz", hidden_states=tokens())
    (tmp_path / "link.npz").symlink_to(tmp_path / "y.npz")
    files = ["--input", tmp_path / "x.npz", "--output", tmp_path / "link.npz"]
    assert cli.main([str(each) for each in ("run", "--engine_dir", engine, *files)]) == 0
    assert (tmp_path / "link.npz").is_symlink()
    assert np.load(tmp_path / "y.npz").files == ["hidden_states_out"]


# --- inspect --------------------------------------------------------------------------------------------------


def test_inspect(engine, capsys):
    assert cli.main(["inspect", str(engine)]) == 0
    told = capsys.readouterr().out
    assert "embedded engine" in told
    assert "(1, 16) .. (8, 16) .. (8, 16)" in told or "(1, 16)" in told
    assert 'activation: "relu"' in told
    assert " layers: " in told
    assert " MATRIX_MULTIPLY" in told
    assert "--layers lists them" in told
    assert cli.main(["inspect", str(engine), "--layers"]) == 0
    assert "--layers lists them" not in capsys.readouterr().out


def test_inspect_takes_engine_dir_too(engine, capsys):
    assert cli.main(["inspect", str(engine)]) == 0
    told = capsys.readouterr().out
    assert cli.main(["inspect", "--engine_dir", str(engine)]) == 0
    assert capsys.readouterr().out == told


def test_inspect_a_text_file(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("text")
    assert f"error: {tmp_path / 'text.txt'}: " in fails(capsys, "inspect", tmp_path / "text.txt")


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_is_no_serialized_engine(engine, kind):
    from trtllm_ext.errors import InputError
    from trtllm_ext.runtime import Session

    with pytest.raises(
        InputError, match=r"is a path; give its content, Path\(...\).read_bytes\(\), or .*from_engine_dir"
    ):
        Session.from_serialized_engine(kind(engine / "rank0.engine"))


def test_inspect_as_json(engine, capsys):
    assert cli.main(["inspect", str(engine), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report) == {
        *("engine", "envelope", "model", "contract", "build_config", "inputs", "outputs", "layers"),
        *("taps", "fusion_level"),
    }
    assert report["inputs"][0]["profiles"][0][2] == [8, HIDDEN]
    assert report["contract"]["feed_forward"]["activation"] == "relu"


def test_inspect_tells_the_maths_in_formulas(engine, capsys):
    assert cli.main(["inspect", str(engine)]) == 0
    told = capsys.readouterr().out
    assert "F(x) = proj(relu(fc(x)))\n" in told
    assert "output = x + F(norm(x)); norm: LayerNorm\n" in told


def test_inspect_tells_only_what_the_engine_has(tmp_path, capsys):
    form = FORMS["neox_parallel_two_norms"]
    for given, formula in ((False, "x + F(norm(x));"), (True, "x + given + F(norm(x));")):
        config = stack_config(
            form, hidden_size=HIDDEN, ffn_hidden_size=8, num_hidden_layers=1, attention_input=given
        )
        write_random_checkpoint(tmp_path / f"c{given}", config)
        tx.build_engine_dir(tmp_path / f"c{given}", tmp_path / f"e{given}", tx.BuildConfig())
        assert cli.main(["inspect", str(tmp_path / f"e{given}")]) == 0
        assert f"output = {formula} norm: LayerNorm\n" in capsys.readouterr().out


def test_inspect_a_bare_engine_file(engine, capsys):
    assert cli.main(["inspect", str(engine / "rank0.engine")]) == 0
    told = capsys.readouterr().out
    assert "hidden_states_out" in told
    assert "contract" not in told


def test_inspect_what_cannot_be_loaded(engine, tmp_path, capsys):
    """The descriptions are shown, and the reason."""
    shutil.copytree(engine, tmp_path / "engine")
    file = tmp_path / "engine" / "rank0.engine"
    file.write_bytes(file.read_bytes()[:-1])
    assert cli.main(["inspect", str(tmp_path / "engine")]) == 0
    told = capsys.readouterr().out
    assert 'activation: "relu"' in told
    assert told.splitlines()[2].startswith("The engine itself cannot be loaded here: ")
    assert "it is truncated" in told
    file.unlink()
    assert cli.main(["inspect", str(tmp_path / "engine")]) == 0
    assert "has no rank0.engine" in capsys.readouterr().out.splitlines()[2]


def test_inspect_tells_compatibility_and_plugins(engine, tmp_path, capsys):
    """Where they are not as usual; whatever the engine is, as they stand in its envelope."""
    folder = shutil.copytree(engine, tmp_path / "engine")
    plugin = PluginSummary(
        name="Fast", version="1", namespace="mine", library="libfast.so", library_sha256="ab" * 32
    )
    envelope = Envelope.read(folder / "rank0.envelope.json")
    changes = {
        "version_compatible": True,
        "hardware_compatibility_level": "ampere_plus",
        "plugins": (plugin,),
    }
    replace(envelope, **changes).write(folder / "rank0.envelope.json")
    assert cli.main(["inspect", str(folder)]) == 0
    head = capsys.readouterr().out.splitlines()[2:4]
    assert head[0] == "built version-compatible, hardware compatibility level ampere_plus"
    assert head[1] == (
        "needs the plugin 'Fast' version '1' in namespace 'mine' of libfast.so (sha256 abababababab...)"
    )


# --- convert, embed -------------------------------------------------------------------------------------------

SENTENCES = ["A cat sat on the mat.", "", "Stock prices fell sharply today.", "There is a cat on the mat."]


def test_embed(encoder, tmp_path, capsys):
    (tmp_path / "sentences.txt").write_text("\n".join(SENTENCES))
    arguments = ["embed", "--engine_dir", str(encoder), "--sentences", str(tmp_path / "sentences.txt")]
    assert cli.main([*arguments, "--output", str(tmp_path / "v.npz")]) == 0
    vectors = np.load(tmp_path / "v.npz")["sentence_embedding"]
    assert vectors.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    cosine = vectors @ vectors.T
    assert cosine[0, 2] > 0.8 > 0.3 > cosine[0, 1]
    told = capsys.readouterr().out
    assert "cosine similarity" in told
    assert SENTENCES[2] in told


def test_long_sentences_are_cut_and_said_to_be(encoder, tmp_path, capsys):
    (tmp_path / "long.txt").write_text("word " * 50)
    assert cli.main(["embed", "--engine_dir", str(encoder), "--sentences", str(tmp_path / "long.txt")]) == 0
    assert "1 of 1 sentences were cut to 16 tokens" in capsys.readouterr().err


def test_many_sentences_are_listed_as_pairs(encoder, tmp_path, capsys):
    (tmp_path / "many.txt").write_text("\n".join(f"Sentence number {index}." for index in range(14)))
    assert cli.main(["embed", "--engine_dir", str(encoder), "--sentences", str(tmp_path / "many.txt")]) == 0
    assert "the 12 most similar pairs of 14 sentences" in capsys.readouterr().out


def test_embeddings_that_are_refused(encoder, engine, tmp_path, capsys):
    (tmp_path / "one.txt").write_text("One.")
    (tmp_path / "blank.txt").write_text("\n\n")
    sentences = tmp_path / "one.txt"
    told = fails(capsys, "embed", "--engine_dir", engine, "--sentences", sentences)
    assert "this engine takes hidden_states and gives hidden_states_out; sentences need an encoder" in told
    told = fails(capsys, "embed", "--engine_dir", encoder, "--sentences", tmp_path / "blank.txt")
    assert "holds no sentence; expected one a line" in told
    told = fails(capsys, "embed", "--engine_dir", encoder, "--sentences", tmp_path / "none.txt")
    assert "none.txt does not exist; expected a text file, one sentence a line" in told
    told = fails(capsys, "embed", "--engine_dir", encoder, "--sentences", tmp_path)
    assert f"{tmp_path} is a directory; expected a text file" in told
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    told = fails(capsys, "embed", "--engine_dir", encoder, "--sentences", tmp_path / "latin.txt")
    assert "latin.txt is not UTF-8 text: " in told
    told = fails(capsys, "embed", "--engine_dir", encoder, "--sentences", sentences, "--tokenizer", tmp_path)
    assert "tokenizer.json does not exist; --tokenizer takes a tokenizer.json, or the folder with it" in told
    (tmp_path / "tokenizer.json").write_text("{}")
    told = fails(capsys, "embed", "--engine_dir", encoder, "--sentences", sentences, "--tokenizer", tmp_path)
    assert "is not a tokenizer that the package tokenizers reads" in told
    copy = tmp_path / "engine"
    shutil.copytree(encoder, copy)
    (copy / "tokenizer.json").unlink()
    assert "holds no tokenizer.json. Give --tokenizer" in fails(
        capsys, "embed", "--engine_dir", copy, "--sentences", sentences
    )


def test_convert_that_is_refused(tmp_path, capsys):
    told = fails(capsys, "convert", "--model_dir", tmp_path / "none", "--output_dir", tmp_path / "checkpoint")
    assert "does not exist" in told
    assert list(tmp_path.iterdir()) == []
