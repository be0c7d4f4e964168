"""`stream report`: all that applies to a model in one report, and what does not with its reason."""

import json

import numpy as np
import pytest
from encoder_formulas import sentences, small_config
from stack_forms import HIDDEN, RMS, TABLE, config_of, plain, random_input, residual

from trtllm_ext.analysis.report import figures
from trtllm_ext.checkpoint import load_checkpoint, write_checkpoint
from trtllm_ext.cli import main as cli
from trtllm_ext.models import write_random_checkpoint

BUDGET_S = 2
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "available", lambda: False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sections(folder):
    found = json.loads((folder / "out" / "report.json").read_text())
    return found, {each["title"]: each["items"] for each in found["sections"]}


def command(*arguments):
    return cli.main(["stream", "report", *arguments, "--output_dir", "out"])


def test_an_encoder_has_all_parts(folder, capsys):
    write_random_checkpoint(folder / "model", small_config(), seed=1)
    np.savez(folder / "x.npz", **sentences(batch=3))
    assert command("--checkpoint_dir", "model", "--input", "x.npz") == 0
    found, parts = sections(folder)
    assert found["command"] == (
        "trtllm-ext stream report --checkpoint_dir model --input x.npz --output_dir out"
    )
    assert parts.pop("What is left out")[0]["paragraphs"] == ["Nothing: all of it applies."]
    for title in ("The stream's end as the sum of its parts", "Who fills the stream", "Virtual weights"):
        assert any(item["kind"] in ("table", "heat_map") for item in parts[title]), title
    told = capsys.readouterr().out
    assert "virtual weights" in told and "left out" not in told and "report.html" in told


def test_without_input_the_matrices_alone(folder, capsys):
    write_random_checkpoint(folder / "model", config_of(plain(residual=residual("pre", RMS))), seed=1)
    assert command("--checkpoint_dir", "model") == 0
    found, parts = sections(folder)
    assert found["facts"]["hidden size"] == str(HIDDEN)
    (reasons,) = (item["paragraphs"] for item in parts["What is left out"])
    assert reasons[0].startswith("Decomposition: nothing was run: give --sentences or --input")
    assert "left out: Decomposition: nothing was run" in capsys.readouterr().out


def test_several_streams_are_taken_apart_and_what_they_lack_is_named(folder):
    config = config_of(TABLE["hyper_static"])
    write_random_checkpoint(folder / "model", config, seed=1)
    np.savez(folder / "x.npz", hidden_states=random_input(config))
    assert command("--checkpoint_dir", "model", "--input", "x.npz") == 0
    _, parts = sections(folder)
    assert "The stream's end as the sum of its parts" in parts
    reasons = " ".join(parts["What is left out"][0]["paragraphs"])
    for name in ("Bandwidth: this model has", "Neurons: transformer.layers.0.mlp", "Virtual weights: "):
        assert name in reasons


def test_one_token_has_no_spectrum_and_all_else(folder):
    config = config_of(plain(residual=residual("pre", RMS)))
    write_random_checkpoint(folder / "model", config, seed=1)
    np.savez(folder / "x.npz", hidden_states=random_input(config)[:1])
    assert command("--checkpoint_dir", "model", "--input", "x.npz") == 0
    _, parts = sections(folder)
    assert (
        "The stream's end as the sum of its parts" in parts
        and "What fires them, and what then goes away" in parts
    )
    assert parts["What is left out"][0]["paragraphs"] == [
        "Bandwidth: a spectrum takes two tokens or more, and the input has 1."
    ]


@pytest.mark.parametrize("subcommand", ["decompose", "spectrum"])
def test_nan_in_a_checkpoint_is_refused_without_an_option_that_is_not_there(folder, capsys, subcommand):
    config = config_of(plain())
    write_random_checkpoint(folder / "model", config, seed=1)
    weights = load_checkpoint(folder / "model").weights

    def with_nan(name, shape):
        values = weights[name].copy()
        values.flat[0] = np.nan if name == "transformer.layers.1.mlp.fc.weight" else values.flat[0]
        yield values

    write_checkpoint(folder / "broken", config, with_nan)
    np.savez(folder / "x.npz", hidden_states=random_input(config))
    arguments = ["--checkpoint_dir", "broken", "--input", "x.npz", "--output_dir", "out"]
    assert cli.main(["stream", subcommand, *arguments]) == 1
    told = capsys.readouterr().err
    assert "transformer.layers.1.mlp.fc.weight holds NaN or infinity.\n" in told
    assert not (folder / "out").exists()


def test_nothing_to_look_at_is_refused_before_anything_is_written(folder, capsys):
    assert command() == 1
    assert "nothing to look at" in capsys.readouterr().err
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    "subcommand, source, output",
    [
        ("decompose", "--checkpoint_dir nowhere --sentences nothing", "--output_dir"),
        ("neurons", "--checkpoint_dir nowhere", "--output_dir"),
        ("report", "--checkpoint_dir nowhere", "--output_dir"),
        ("rotate", "--checkpoint_dir nowhere --weights_only", "--report_dir"),
        ("spectrum", "--checkpoint_dir nowhere", "--output_dir"),
        ("steer", "--engine_dir nowhere --sentences nothing", "--output_dir"),
        ("weights", "--checkpoint_dir nowhere", "--output_dir"),
    ],
)
def test_where_no_report_may_go_is_told_before_the_work(folder, capsys, subcommand, source, output):
    (folder / "full").mkdir()
    (folder / "full" / "notes.txt").touch()
    (folder / "full" / ".hidden").touch()
    assert cli.main(["stream", subcommand, *source.split(), output, "full"]) == 1
    assert "no part of an earlier report: notes.txt, .hidden." in capsys.readouterr().err
