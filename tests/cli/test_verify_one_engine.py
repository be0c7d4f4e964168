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


def cells(lines):
    """The cells of each row of the tables, below the heading that it stands under."""
    rows, heading = [], ""
    for line in lines:
        if line.startswith("transformer"):
            heading = line
        elif heading and re.match(r"  \S+ {2,}", line):
            rows.append([heading, *re.split(" {2,}", line.strip())])
    return rows


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
    assert lines[:3] == [
        f"yes: {paths['tapped']} (bfloat16), run on hidden_states (8, 16)",
        "- All 7 tensors that the engine exposes are within tolerance.",
        "",
    ]
    headings = ["point", "vs oracle", "vs formulas", "this step", "allowed", "ok"]
    assert re.split(" {2,}", lines[3].strip()) == headings
    rows = cells(lines)
    assert len(rows) == 7
    assert all(row[-1] == "yes" and float(row[4]) <= float(row[5]) == 0.05 for row in rows)


def test_a_changed_weight_is_found(paths, tmp_path, capsys):
    written = tmp_path / "found.json"
    given = ["--engine_dir", paths["tapped"], "--checkpoint_dir", paths["changed"]]
    code, lines, errors = told(capsys, *given, "--json", written)
    assert code == 1
    assert errors == f"trtllm-ext: error: {paths['tapped']} does not compute what it should."
    wrong = [row[:2] for row in cells(lines) if row[-1] == "NO"]
    assert wrong == [["transformer.layers.1.mlp", "contribution"]]
    assert lines[0].startswith(f"NO: {paths['tapped']} (bfloat16)")
    findings = [line for line in lines if line.startswith("- ")]
    assert findings[0].startswith(
        "- The first tensor that leaves its tolerance is transformer.layers.1.mlp.contrib"
    )
    assert findings[1].startswith(f"- The engine holds other weights than the checkpoint: {WEIGHT}.")
    found = json.loads(written.read_text())
    assert (found["is_right"], found["sublayer"]) == (False, "transformer.layers.1.mlp")
    assert (found["weights_that_differ"], found["weights"]) == ([WEIGHT], "other")
    assert found["verdict"] == " ".join(found["findings"])


def test_bisect(paths, capsys):
    given = ["--engine_dir", paths["engine"], "--checkpoint_dir", paths["changed"], "--bisect"]
    code, lines, _ = told(capsys, *given)
    assert code == 1
    assert len(cells(lines)) == 1 + 7
    assert "built anew with taps:" in lines
    verdict = " ".join(line.strip() for line in lines[: lines.index("")])
    assert verdict.count("not built from") == 1
    assert verdict.endswith("right, with taps and without: the library is not at fault.")
    assert "no taps" not in verdict


def test_an_input_of_ones_own(paths, tmp_path, capsys):
    """bfloat16 as numpy stores it: two raw bytes an element."""
    values = np.linspace(-1, 1, 48, dtype=np.float32).reshape(3, 16).view(np.uint16)[:, 1::2].copy()
    np.savez(tmp_path / "x.npz", hidden_states=values.view("V2"))
    code, lines, errors = told(capsys, "--engine_dir", paths["engine"], "--input", tmp_path / "x.npz")
    assert (code, errors) == (0, "")
    assert lines[0].endswith("(bfloat16), run on hidden_states (3, 16)")
    assert any(line.startswith("note: no checkpoint was given") for line in lines)
    np.savez(tmp_path / "y.npz", hidden_state=values.view("V2"))
    code, _, errors = told(capsys, "--engine_dir", paths["engine"], "--input", tmp_path / "y.npz")
    assert code == 1
    assert "hidden_states" in errors


def test_headroom_without_an_engine(paths, tmp_path, capsys):
    code, lines, errors = told(capsys, "--checkpoint_dir", paths["checkpoint"], "--headroom")
    assert (code, errors) == (0, "")
    rows = cells(lines)
    assert [row[1] for row in rows] == ["post_layernorm", "mlp.contribution", "mlp.after"] * 2
    assert [row[0] for row in rows] == ["transformer.layers.0"] * 3 + ["transformer.layers.1"] * 3
    assert all(row[-1] == "ok" for row in rows)
    assert lines[0].startswith("yes: float16 is safe for this input: ")
    assert max(map(len, lines[lines.index("") : -2])) <= 80


def test_a_weight_that_differs_within_the_tolerance(paths, tmp_path, capsys):
    found = load_checkpoint(paths["checkpoint"])
    weights = {name: np.array(value) for name, value in found.weights.items()}
    weights[WEIGHT].view(np.uint16)[1, 2] ^= 1  # the last bit
    write_checkpoint(tmp_path / "c", found.config, lambda name, shape: iter([weights[name]]))
    for engine in ("engine", "tapped"):
        given = ["--engine_dir", paths[engine], "--checkpoint_dir", tmp_path / "c"]
        code, lines, errors = told(capsys, *given, "--json", tmp_path / "found.json")
        assert (code, lines[0][:3]) == (1, "NO:")
        assert errors.endswith(f"{paths[engine]} was not built from {tmp_path / 'c'} as it is now.")
        report = json.loads((tmp_path / "found.json").read_text())
        assert (report["is_right"], report["weights_that_differ"]) == (False, [WEIGHT])
        assert all(row["is_right"] for row in report["rows"])
        assert f"- The engine holds other weights than the checkpoint: {WEIGHT}." in " ".join(lines)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_terminal_that_is_narrow(paths, capsys, monkeypatch, width):
    """Nothing is wider than it, and what is broken is broken where words and names have their joints."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("trtllm_ext.cli.terminal._is_terminal", lambda: True)
    from trtllm_ext.cli import verify_tables
    from trtllm_ext.verify import LayerRow

    path = "SublayerStack/transformer/layers/1/mlp/"
    names = [
        f"{path}fc/matmul_L34/MATRIX_MULTIPLY_0",
        f"{path}_before_proj_L95/inner_L103/<lambda>_L6/gelu_L51/GELU_0",
    ]
    verify_tables.paragraph(f"- It is {names[1]}, so the library is at fault.", "  ")
    verify_tables._print_layers(tuple(LayerRow(name, "ACTIVATION", "t", 0.0, 0.0, 1e-5) for name in names))
    given = ["--engine_dir", paths["tapped"], "--checkpoint_dir", paths["changed"]]
    out = capsys.readouterr().out + "\n".join(told(capsys, *given)[1])
    parts = set(re.findall(r"[^\s/]+", out))
    assert {"MATRIX_MULTIPLY_0", "_before_proj_L95", "<lambda>_L6", "GELU_0", WEIGHT + "."} <= parts
    assert "SublayerStack" not in out.partition("layers of")[2]
    table = [line for line in out.splitlines() if "transformer" not in line]
    assert max(map(len, table)) <= max(width, 70)


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
        (
            ["--checkpoint_dir", "checkpoint", "--bisect"],
            "--bisect looks into an engine, built for one rank. Give it: --engine_dir DIR.",
        ),
        (
            ["--engine_dir", "engine", "--bisect", "--max_num_tokens", "4"],
            "--bisect is for an engine of one rank, and --max_num_tokens for several. Leave one of them out.",
        ),
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
    points = [row[1] for row in cells(lines)]
    assert points[-2:] == ["last_hidden_state", "sentence_embedding"]
    assert any(line.startswith("- Tapping changed nothing") for line in lines)
