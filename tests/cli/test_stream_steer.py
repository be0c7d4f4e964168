"""`stream steer`: what it reports of a stack and of sentences, cut into runs, and what it refuses before it runs."""

import json
import sys

import numpy as np
import pytest
from operated import reference
from small_encoder import make_encoder
from stack_forms import HIDDEN, TABLE, checkpoint, config_of

import trtllm_ext as tx
from trtllm_ext.checkpoint import load_checkpoint
from trtllm_ext.cli import main as cli

BUDGET_S = 4

pytestmark = pytest.mark.usefixtures("one_thread")

LAST = "transformer.layers.1.mlp.contribution"
TOKENS, MOST = 11, 4


@pytest.fixture(autouse=True)
def without_figures(monkeypatch):
    """Which the tests of reports look at: drawing them takes longer than all else here."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("steer")
    config = config_of(TABLE["gpt2"])
    checkpoint(path / "checkpoint", config)
    settings = tx.BuildConfig(max_num_tokens=MOST, surgery=["*"], taps=["*.after", "*.1.mlp.contribution"])
    tx.build_engine_dir(path / "checkpoint", path / "engine", settings)
    rng = np.random.default_rng(0)
    np.savez(path / "x.npz", hidden_states=rng.normal(size=(TOKENS, HIDDEN)).astype(np.float32))
    np.save(path / "vector.npy", rng.normal(size=HIDDEN))
    np.save(path / "rows.npy", rng.normal(size=(TOKENS, HIDDEN)))
    np.save(path / "text.npy", np.array(["one"]))
    return path


def steer(folder, *flags, output="out", engine="engine"):
    source = (
        ()
        if any(flag in ("--sentences", "--input") for flag in flags)
        else ("--input", str(folder / "x.npz"))
    )
    command = ["stream", "steer", "--engine_dir", str(folder / engine), *source, *flags]
    return cli.main([*command, "--output_dir", str(folder / output)])


def arrays(folder, output="out"):
    from safetensors.numpy import load_file

    return load_file(folder / output / "arrays.safetensors")


def of_checkpoint(folder, changes):
    loaded = load_checkpoint(folder / "checkpoint")
    x = np.load(folder / "x.npz")["hidden_states"]
    return reference(loaded.config, loaded.weights, {"hidden_states": x}, changes)


def check(got, expected):
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 3e-6 * np.abs(expected).max()


def test_a_stack_is_changed_run_by_run_as_in_one(folder, capsys):
    first, after = "transformer.layers.0.mlp.contribution", "transformer.layers.0.mlp.after"
    code = steer(
        folder,
        *("--scale", f"{first}=0.5", "--replace", f"{LAST}={folder / 'rows.npy'}"),
        *("--add", f"{after}={folder / 'vector.npy'}"),
    )
    assert code == 0
    told = capsys.readouterr().out
    assert "hidden_states_out" in told
    changes = {
        f"{first}.scale": np.array([0.5]),
        f"{LAST}.scale": np.array([0.0]),
        f"{LAST}.add": np.load(folder / "rows.npy"),
        f"{after}.add": np.tile(np.load(folder / "vector.npy"), (TOKENS, 1)),
    }
    unchanged, changed = of_checkpoint(folder, {}), of_checkpoint(folder, changes)
    found = arrays(folder)
    check(found["hidden_states_out.unchanged"], unchanged["hidden_states_out"])
    check(found["hidden_states_out.changed"], changed["hidden_states_out"])
    names = [f"transformer.layers.{layer}.mlp.after" for layer in (0, 1)]
    shares = [
        np.linalg.norm(changed[name] - unchanged[name], axis=-1) / np.linalg.norm(unchanged[name], axis=-1)
        for name in names
    ]
    np.testing.assert_allclose(found["stream_after_shares"], shares, rtol=1e-5)
    report = json.loads((folder / "out" / "report.json").read_text())
    assert "stream steer --engine_dir" in json.dumps(report)
    assert "scale transformer.layers.0.mlp.contribution by 0.5" in json.dumps(report)


def test_the_mean_takes_a_contributions_place(folder):
    assert steer(folder, "--replace", f"{LAST}=mean") == 0
    mean = of_checkpoint(folder, {})[LAST].mean(0)
    changes = {f"{LAST}.scale": np.array([0.0]), f"{LAST}.add": np.tile(mean, (TOKENS, 1))}
    check(arrays(folder)["hidden_states_out.changed"], of_checkpoint(folder, changes)["hidden_states_out"])


def test_sentences(folder, capsys):
    make_encoder(folder / "sentences")
    settings = tx.BuildConfig(max_batch_size=2, max_input_len=20, surgery=["*.contribution"])
    tx.build_engine_dir(folder / "sentences/checkpoint", folder / "sentences/changed", settings)
    (folder / "s.txt").write_text("w1 w2 w3\nw4 w5\nw1 w1 w9 w30 w31 w2\n")
    flags = ("--sentences", str(folder / "s.txt"), "--drop", "*.attention.contribution")
    assert steer(folder, *flags, engine="sentences/changed") == 0
    assert "sentence_embedding" in capsys.readouterr().out
    found = arrays(folder)
    vectors = found["sentence_embedding.unchanged"].astype(np.float64)
    np.testing.assert_allclose(found["similarities_unchanged"], vectors @ vectors.T, atol=1e-5)
    assert np.abs(found["similarities_difference"]).max() > 1e-4
    assert steer(folder, *flags, engine="sentences/engine") == 1
    assert "built without surgery" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "nothing is to be changed"),
        (("--scale", LAST), f"--scale {LAST} is not NAME=NUMBER"),
        (("--scale", f"{LAST}=much"), "'much' is no number"),
        (("--drop", "*.contributoin"), "Did you mean *.contribution"),
        (("--replace", "*.0.mlp.contribution=mean"), "no tap of it"),
        (("--add", f"{LAST}=FOLDER/none.npy"), "does not exist"),
        (("--add", f"{LAST}=FOLDER/x.npz"), "holds no array of real numbers"),
        (("--add", f"{LAST}=FOLDER/text.npy"), "holds no array of real numbers"),
        (
            ("--add", "transformer.layers.1.mlp.before=FOLDER/rows.npy", "--input", "FOLDER/none.npz"),
            "does not exist",
        ),
    ],
)
def test_what_is_refused(folder, flags, said, capsys):
    flags = [flag.replace("FOLDER", str(folder)) for flag in flags]
    assert steer(folder, *flags, output="refused") == 1
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (folder / "refused").exists()


def test_rows_of_another_number_than_the_inputs(folder, capsys):
    np.save(folder / "few.npy", np.ones((TOKENS - 1, HIDDEN)))
    assert steer(folder, "--add", f"{LAST}={folder / 'few.npy'}", output="refused") == 1
    assert f"the input has {TOKENS} tokens without padding" in " ".join(capsys.readouterr().err.split())
