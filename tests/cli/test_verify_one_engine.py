"""`verify` of one engine: what it prints, its exit code, and what it refuses."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from trtllm_ext.checkpoint import load_checkpoint, write_checkpoint
from trtllm_ext.cli import main as cli
from trtllm_ext.models import encoder_config, sublayer_stack_config
from trtllm_ext.models.random import write_random_checkpoint

BUDGET_S = 4

pytestmark = pytest.mark.usefixtures("one_thread")

WEIGHT = "transformer.layers.1.mlp.fc.weight"


def told(capsys, *arguments):
    """Exit code, the lines of stdout, and stderr without what tells of the progress."""
    capsys.readouterr()
    code = cli.main(["verify", *map(str, arguments)])
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if not line.startswith("verify: ")]
    return code, out.splitlines(), "\n".join(errors)


def cells(lines, start):
    """The cells of the rows that begin so."""
    return [re.split(" {2,}", line) for line in lines if line.startswith(start)]


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """A checkpoint, another one with a weight changed, an engine of the first with taps and one without."""
    root = tmp_path_factory.mktemp("verify")
    config = sublayer_stack_config(hidden_size=16, ffn_hidden_size=32, num_hidden_layers=2, dtype="bfloat16")
    write_random_checkpoint(root / "checkpoint", config)
    found = load_checkpoint(root / "checkpoint")
    changed = np.array(found.weights[WEIGHT])
    changed[0] = -8
    weights = {**found.weights, WEIGHT: changed}
    write_checkpoint(root / "changed", found.config, lambda name, shape: iter([weights[name]]))
    for name, taps in (("tapped", ["--taps", "*"]), ("engine", [])):
        given = ["--checkpoint_dir", str(root / "checkpoint"), "--output_dir", str(root / name)]
        assert cli.main(["build", *given, "--max_num_tokens", "16", *taps]) == 0
    return {name: root / name for name in ("checkpoint", "changed", "tapped", "engine")}


def test_a_right_engine(paths, capsys):
    code, lines, errors = told(
        capsys, "--engine_dir", paths["tapped"], "--checkpoint_dir", paths["checkpoint"]
    )
    assert (code, errors) == (0, "")
    headings = ["sublayer", "point", "vs oracle", "vs formulas", "this step", "allowed", "ok"]
    assert re.split(" {2,}", lines[1].strip()) == headings
    rows = cells(lines, "transformer")
    assert len(rows) == 7
    assert all(row[-1] == "yes" and float(row[4]) <= float(row[5]) == 0.05 for row in rows)
    assert lines[-1] == "All 7 tensors that the engine exposes are within tolerance."


def test_a_changed_weight_is_found(paths, tmp_path, capsys):
    written = tmp_path / "found.json"
    given = ["--engine_dir", paths["tapped"], "--checkpoint_dir", paths["changed"]]
    code, lines, errors = told(capsys, *given, "--json", written)
    assert code == 1
    assert errors == f"trtllm-ext: error: {paths['tapped']} does not compute what it should."
    wrong = [row[:2] for row in cells(lines, "transformer") if row[-1] == "NO"]
    assert wrong == [["transformer.layers.1.mlp", "contribution"]]
    assert WEIGHT in lines[-1]
    found = json.loads(written.read_text())
    assert (found["is_right"], found["sublayer"]) == (False, "transformer.layers.1.mlp")
    assert found["weights_that_differ"] == [WEIGHT]


def test_bisect(paths, capsys):
    given = ["--engine_dir", paths["engine"], "--checkpoint_dir", paths["changed"], "--bisect"]
    code, lines, _ = told(capsys, *given)
    assert code == 1
    assert len(cells(lines, "transformer")) == 1 + 7
    assert "built anew with taps:" in lines
    assert "was not built from this checkpoint" in lines[-1]


def test_an_input_of_ones_own(paths, tmp_path, capsys):
    """bfloat16 as numpy stores it: two raw bytes an element."""
    values = np.linspace(-1, 1, 48, dtype=np.float32).reshape(3, 16).view(np.uint16)[:, 1::2].copy()
    np.savez(tmp_path / "x.npz", hidden_states=values.view("V2"))
    code, lines, errors = told(capsys, "--engine_dir", paths["engine"], "--input", tmp_path / "x.npz")
    assert (code, errors) == (0, "")
    assert lines[0].endswith("bfloat16, run on hidden_states (3, 16)")
    assert any(line.startswith("note: no checkpoint was given") for line in lines)
    np.savez(tmp_path / "y.npz", hidden_state=values.view("V2"))
    code, _, errors = told(capsys, "--engine_dir", paths["engine"], "--input", tmp_path / "y.npz")
    assert code == 1
    assert "hidden_states" in errors


def test_headroom_without_an_engine(paths, tmp_path, capsys):
    code, lines, errors = told(capsys, "--checkpoint_dir", paths["checkpoint"], "--headroom")
    assert (code, errors) == (0, "")
    rows = cells(lines, "transformer")
    assert [row[1] for row in rows] == ["norm", "contribution", "add"] * 2
    assert all(row[-1] == "ok" for row in rows)
    assert lines[-1].startswith("float16 is safe for this input: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --engine_dir DIR to look into an engine"),
        (["--headroom", "--engine_dir", "engine"], "Give --checkpoint_dir DIR"),
        (
            ["--headroom", "--checkpoint_dir", "checkpoint", "--simulate_ranks", "2"],
            "--simulate_ranks is for several ranks, and --headroom for the whole model",
        ),
        (["--headroom", "--checkpoint_dir", "checkpoint", "--bisect"], "--bisect looks into an engine"),
        (["--checkpoint_dir", "checkpoint", "--bisect"], "--bisect is for an engine of one rank"),
        (["--engine_dir", "engine", "--simulate_ranks", "2"], "Give it: --checkpoint_dir DIR"),
        (["--engine_dir", "engine", "--input", "nowhere.npz"], "nowhere.npz"),
        (["--engine_dir", "nowhere"], "does not exist"),
    ],
)
def test_refusals(paths, capsys, arguments, message):
    code, lines, errors = told(capsys, *(paths.get(each, each) for each in arguments))
    assert (code, lines) == (1, [])
    assert message in errors
    assert errors.count("\n") == 0


def test_an_encoder_with_padding(tmp_path, capsys):
    config = encoder_config(
        hidden_size=16,
        ffn_hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=30,
        max_position_embeddings=16,
    )
    write_random_checkpoint(tmp_path / "c", replace(config, dtype="float16"))
    given = ["--checkpoint_dir", str(tmp_path / "c")]
    assert cli.main(["build", *given, "--output_dir", str(tmp_path / "e"), "--taps", "*"]) == 0
    code, lines, errors = told(capsys, "--engine_dir", tmp_path / "e", *given, "--bisect")
    assert (code, errors) == (0, "")
    points = [row[1] for row in cells(lines, "transformer")]
    assert points[-2:] == ["last_hidden_state", "sentence_embedding"]
    assert "Tapping changed nothing" in lines[-1]
