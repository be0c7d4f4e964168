"""Neurons that erase and that amplify, against matrices folded in NumPy, row by row."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from encoder_formulas import small_config
from neuron_folding import cosine, folded, wide
from safetensors.numpy import save_file
from small_encoder import WORDS, word_tokenizer
from stack_forms import BARE, FFN, LAYER, RMS, SHARED, config_of, plain, residual, streams

from trtllm_ext.analysis.neurons.neurons import neuron_units, unit_cosines
from trtllm_ext.analysis.neurons.random_directions import (
    random_cosine_std,
    random_histogram,
    random_share,
    random_share_beyond,
)
from trtllm_ext.analysis.neurons.survey import survey_neurons
from trtllm_ext.analysis.running.engines import tapped_engine
from trtllm_ext.analysis.stream_map import read_stream_map
from trtllm_ext.checkpoint import load_checkpoint, stack_config, write_checkpoint
from trtllm_ext.checkpoint.lazy import LazyCheckpoint
from trtllm_ext.cli.main import main
from trtllm_ext.errors import CheckpointError, ConfigError
from trtllm_ext.models import write_random_checkpoint

BUDGET_S = 2
pytestmark = pytest.mark.usefixtures("one_thread")

FORMS = {
    "layer norm, one plus its weight": plain(residual=residual("pre", LAYER)),
    "gated": plain(gated=True, residual=residual("pre", RMS)),
    "post": plain(residual=residual("post", LAYER)),
    "norm without a weight on the branch": plain(residual=residual("branch", BARE)),
    "sandwich": plain(residual=residual("sandwich", RMS, LAYER, gate="channel", scale=-0.3)),
    "scalar gate": plain(gated=True, residual=residual("pre", RMS, gate="tanh")),
}


# --- cosines ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMS)
def test_cosines_are_those_of_folded_matrices(name, tmp_path):
    form = FORMS[name]
    # float16 weights, so that what is folded is not rounded to them again.
    write_random_checkpoint(tmp_path, config_of(form, dtype="float16"), seed=7)
    weights = wide(tmp_path)
    for unit in neuron_units(read_stream_map(tmp_path)):
        found = unit_cosines(unit)
        before, behind = folded(form, weights, f"transformer.layers.{unit.layer}")
        matrices = {each: weights[f"{unit.part}.{each}.weight"] @ before for each in unit.readers}
        write = behind @ weights[f"{unit.part}.proj.weight"]
        assert list(found.read) == (["fc", "gate"] if form.gated else ["fc"])
        for neuron in range(FFN):
            for each, matrix in matrices.items():
                expected = cosine(matrix[neuron], write[:, neuron])
                assert found.read[each][neuron] == pytest.approx(expected, abs=1e-13)
                assert found.read_norms[each][neuron] == pytest.approx(np.linalg.norm(matrix[neuron]))
            assert found.write_norms[neuron] == pytest.approx(np.linalg.norm(write[:, neuron]))
            if form.gated:
                between = cosine(matrices["fc"][neuron], matrices["gate"][neuron])
                assert found.between[neuron] == pytest.approx(between, abs=1e-13)
        assert unit.judged_by == ("gate" if form.gated else "fc")


def test_every_expert_and_the_shared_one_is_a_unit(tmp_path):
    write_random_checkpoint(tmp_path, config_of(SHARED), seed=3)
    weights, units = wide(tmp_path), neuron_units(read_stream_map(tmp_path))
    assert [unit.label for unit in units[:5]] == [*(f"mlp[{n}]" for n in range(4)), "mlp.shared_expert"]
    gain = weights["transformer.layers.0.post_layernorm.weight"]
    for number, unit in enumerate(units[:5]):
        path, pick = (
            ("transformer.layers.0.mlp.", number) if number < 4 else (f"{units[0].part}.shared_expert.", ...)
        )
        fc, proj = (weights[f"{path}{name}.weight"][pick] for name in ("fc", "proj"))
        expected = [cosine(row * gain, column) for row, column in zip(fc, proj.T, strict=True)]
        np.testing.assert_allclose(unit_cosines(unit).read["fc"], expected, atol=1e-13)


def test_a_planted_eraser_and_amplifier_are_found_and_a_dead_neuron_is_told(tmp_path):
    config = config_of(plain(activation="relu", fc_bias=False, residual=residual("pre", RMS)))
    write_random_checkpoint(tmp_path / "random", config, seed=7)
    weights = {name: value.copy() for name, value in load_checkpoint(tmp_path / "random").weights.items()}
    path = "transformer.layers.1"
    reads = weights[f"{path}.mlp.fc.weight"] * weights[f"{path}.post_layernorm.weight"]
    weights[f"{path}.mlp.proj.weight"][:, 11] = -2 * reads[11]
    weights[f"{path}.mlp.proj.weight"][:, 12] = 3 * reads[12]
    weights[f"{path}.mlp.proj.weight"][:, 13] = 0
    write_checkpoint(tmp_path / "planted", config, lambda name, shape: [weights[name]])
    found = survey_neurons(read_stream_map(tmp_path / "planted"), 2)
    erasing, amplifying = found.layers[1].erasing, found.layers[1].amplifying
    assert [len(erasing), len(amplifying)] == [2, 2]
    assert (erasing[0].name, amplifying[0].name) == ("1.mlp.11", "1.mlp.12")
    assert erasing[0].cosine == pytest.approx(-1) and amplifying[0].cosine == pytest.approx(1)
    assert erasing[1].cosine > erasing[0].cosine
    (summary,) = found.layers[1].summaries
    assert (summary.dead, summary.count) == (1, FFN)
    assert np.isnan(found.layers[1].units[0].judged[13])
    # 5 / sqrt(16) is beyond 1: no cosine can be.
    assert (summary.below, summary.above, summary.expected_beyond) == (0, 0, 0)


def test_random_directions_against_closed_forms_and_draws():
    assert random_share(3, -0.3, 0.9) == pytest.approx(0.6)  # Archimedes: zones of equal height, equal area
    assert random_share(2, 0.0, 0.5) == pytest.approx(np.arcsin(0.5) / np.pi)
    drawn = np.random.default_rng(1).normal(size=(8000, 24))
    cosines = drawn[:, 0] / np.linalg.norm(drawn, axis=1)
    assert cosines.std() == pytest.approx(random_cosine_std(24), rel=0.03)
    assert (np.abs(cosines) > 2 / np.sqrt(24)).mean() == pytest.approx(random_share_beyond(24, 2), abs=0.008)
    edges = np.linspace(-1, 1, 41)
    np.testing.assert_allclose(
        random_histogram(24, edges), np.histogram(cosines, edges)[0] / 8000, atol=0.015
    )
    for size in (2, 3, 384, 16384):
        assert random_histogram(size, edges).sum() == pytest.approx(1)
    # Near the normal distribution's in many dimensions, and below it: the sphere has no tails.
    assert 0.9 * 5.733e-7 < random_share_beyond(4096, 5) < 5.733e-7


@pytest.mark.long
def test_memory_is_that_of_two_matrices_and_pieces_of_them(tmp_path):
    """4 layers of 1024 x 32768: a product of the widths would take 8.6 GB, all matrices in float64 2.1 GB."""
    hidden, ffn = 1024, 32768
    config = stack_config(
        plain(residual=residual("pre", LAYER)),
        hidden_size=hidden,
        ffn_hidden_size=ffn,
        num_hidden_layers=4,
        dtype="bfloat16",
    )
    write_random_checkpoint(tmp_path / "checkpoint", config)
    script = (
        "import resource, sys\n"
        "from trtllm_ext.analysis.bandwidth import bandwidth\n"
        "from trtllm_ext.analysis.neurons.survey import survey_neurons\n"
        "from trtllm_ext.analysis.stream_map import read_stream_map\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "before, found = peak(), read_stream_map(sys.argv[1])\n"
        "survey = survey_neurons(found, 3)\n"
        "wide = bandwidth.bandwidth(None, found, None)\n"
        "print(peak() - before, len(survey.layers), len(wide.writers))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "checkpoint")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert printed[1:] == ["4", "4"]
    assert int(printed[0]) < 2 * hidden * ffn * 4 + 500 * 2**20


# --- the command --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    write_random_checkpoint(folder / "checkpoint", replace(small_config()), seed=2)
    (folder / "checkpoint" / "tokenizer.json").write_text(json.dumps(word_tokenizer()))
    lines = [" ".join(WORDS[start : start + 7]) for start in range(0, 21, 7)]
    (folder / "sentences.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture
def no_figures(monkeypatch):
    """Figures are the report's own affair, and drawing them takes a second."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def table_of(report, name):
    return next(
        item for section in report["sections"] for item in section["items"] if item.get("name") == name
    )


def test_both_commands_on_sentences_write_what_they_print(encoder, tmp_path, capsys, no_figures):
    given = ["--checkpoint_dir", str(encoder / "checkpoint"), "--sentences", str(encoder / "sentences.txt")]
    for command in ("neurons", "spectrum"):
        assert main(["stream", command, *given, "--output_dir", str(tmp_path / command)]) == 0
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "neurons" / "report.json").read_text())
    rows = table_of(report, "examples")["rows"]
    assert len(rows) == 2 * 2 * 5
    assert all("[" in row[3] and row[0].startswith(("0.mlp.", "1.mlp.")) for row in rows)
    strongest = min(table_of(report, "erasing")["rows"], key=lambda row: row[2])
    assert f"{strongest[1]} " in printed and f"{strongest[2]:+.3f}" in printed
    report = json.loads((tmp_path / "spectrum" / "report.json").read_text())
    assert [row[0] for row in table_of(report, "spectrum")["rows"]][-1] == "final"
    # 27 tokens, two of each sentence around its words.
    assert report["facts"]["tokens"] == "27"
    assert "layers.1.mlp.before" in printed


def test_a_hugging_face_folder_is_read_as_it_is(tmp_path, no_figures):
    names = {
        "self_attn.o_proj": (8, 8),
        "mlp.gate_proj": (12, 8),
        "mlp.up_proj": (12, 8),
        "mlp.down_proj": (8, 12),
    }
    names |= {f"self_attn.{name}_proj": (8, 8) for name in "qkv"}
    names |= {"input_layernorm": (8,), "post_attention_layernorm": (8,)}
    shapes = {f"model.layers.0.{name}.weight": shape for name, shape in names.items()}
    shapes |= {"model.embed_tokens.weight": (20, 8), "lm_head.weight": (20, 8), "model.norm.weight": (8,)}
    random = np.random.default_rng(6)
    weights = {name: random.normal(size=shape).astype(np.float16) for name, shape in shapes.items()}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "rms_norm_eps": 1e-6,
        "vocab_size": 20,
        "max_position_embeddings": 16,
    }
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors")
    found = survey_neurons(read_stream_map(folder), 1)
    gain = weights["model.layers.0.post_attention_layernorm.weight"].astype(float)
    down = weights["model.layers.0.mlp.down_proj.weight"].astype(float)
    # The gate of Hugging Face's name goes through the activation: it is fc here, and up is the factor beside it.
    for ours, theirs in {"fc": "gate", "gate": "up"}.items():
        read = weights[f"model.layers.0.mlp.{theirs}_proj.weight"].astype(float) * gain
        expected = [cosine(*pair) for pair in zip(read, down.T, strict=True)]
        np.testing.assert_allclose(found.layers[0].units[0].read[ours], expected, atol=1e-13)
    command = ["stream", "spectrum", "--model_dir", str(folder), "--output_dir", str(tmp_path / "report")]
    assert main(command) == 0


def test_bad_input_is_refused_by_name(encoder, tmp_path, capsys):
    out = ["--output_dir", str(tmp_path / "out")]
    checkpoint, text = str(encoder / "checkpoint"), str(encoder / "sentences.txt")

    def refused(*arguments):
        assert main(["stream", *arguments, *out]) == 1
        return capsys.readouterr().err

    assert "give --checkpoint_dir or --model_dir" in refused(
        "neurons", "--engine_dir", "e", "--sentences", text
    )
    assert "--top 0: expected 1 or more" in refused("neurons", "--checkpoint_dir", checkpoint, "--top", "0")
    assert "--model_dir is for the matrices alone" in refused(
        "spectrum", "--model_dir", "m", "--sentences", text
    )
    assert "--engine_dir runs input" in refused("spectrum", "--engine_dir", "e")
    assert "nothing to look at" in refused("spectrum")
    write_random_checkpoint(tmp_path / "stack", config_of(plain()))
    (tmp_path / "stack" / "tokenizer.json").write_text(json.dumps(word_tokenizer()))
    with tapped_engine(checkpoint_dir=checkpoint) as engine:
        said = refused(
            *("neurons", "--engine_dir", str(engine), "--checkpoint_dir", str(tmp_path / "stack")),
            *("--sentences", text),
        )
    assert f"{tmp_path / 'stack'} is of another model than {engine} was built from" in said
    assert not (tmp_path / "out").exists()
    form = plain(residual=residual(hyper_connections=streams("static", 2)))
    write_random_checkpoint(tmp_path / "streams", config_of(form))
    with pytest.raises(
        CheckpointError, match=r"layers\.0\.mlp has no read and write direction to compare: hyper"
    ):
        neuron_units(read_stream_map(tmp_path / "streams"))
    with pytest.raises(ConfigError, match="0 neurons at each end"):
        survey_neurons(read_stream_map(checkpoint), 0)
    with pytest.raises(ConfigError, match="give both or neither"):
        survey_neurons(read_stream_map(checkpoint), 1, LazyCheckpoint(checkpoint))


def test_weights_that_are_not_finite_are_no_dead_neurons(tmp_path):
    write_random_checkpoint(tmp_path / "model", config_of(plain(residual=residual("pre", RMS))), seed=1)
    unit = neuron_units(read_stream_map(tmp_path / "model"))[0]
    values = unit.writer.matrix.load()
    values[3, 2] = np.nan
    broken = replace(unit.writer, matrix=replace(unit.writer.matrix, load=lambda: values))
    with pytest.raises(CheckpointError, match=r"layers\.0\.mlp\.proj.*neuron 2 .*NaN or infinity"):
        unit_cosines(replace(unit, writer=broken))
