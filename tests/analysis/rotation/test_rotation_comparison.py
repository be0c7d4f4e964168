"""Outliers and quantised sublayers against formulas written here, and the report of `stream rotate`."""

import json
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from encoder_formulas import sentences, small_config
from stack_forms import FFN, HIDDEN, LAYER, RMS, TABLE, checkpoint, config_of, random_input

from trtllm_ext.analysis.rotation import load_transform, rotate_checkpoint
from trtllm_ext.analysis.rotation.comparison import (
    Comparison,
    Side,
    compare_alone,
    compare_on_input,
    compare_weights,
)
from trtllm_ext.analysis.rotation.outliers import outliers
from trtllm_ext.analysis.rotation.schemes import SCHEMES, nearest_fp8, to_fp8, to_int8
from trtllm_ext.analysis.rotation.showing import summary
from trtllm_ext.analysis.rotation.walking import Walk
from trtllm_ext.analysis.stream_map import read_stream_map
from trtllm_ext.checkpoint import FORMS, stack_config
from trtllm_ext.checkpoint.lazy import LazyCheckpoint
from trtllm_ext.cli import main as cli
from trtllm_ext.errors import AnalysisError, CheckpointError, ConfigError, InputError
from trtllm_ext.verify.formulas import ACTIVATION, evaluate, points_of, rms_norm

BUDGET_S = 2

FORMS_WALKED = sorted(name for name, form in TABLE.items() if form.residual.hyper_connections is None)


def walked(path, inputs):
    walk = Walk(LazyCheckpoint(path), inputs)
    return list(walk.calls()), walk.output


@pytest.mark.parametrize("name", FORMS_WALKED)
def test_sublayers_one_after_the_other_give_what_the_formulas_give(tmp_path, name):
    form = TABLE[name]
    takes = form.residual.placement != "post" and form.residual.skip_scale == 1
    config = config_of(form, final_norm=LAYER, attention_input=takes)
    weights = checkpoint(tmp_path / "c", config)
    inputs = {"hidden_states": random_input(config)}
    if takes:
        inputs["attention_output"] = np.stack([random_input(config, seed=5), random_input(config, seed=6)])
    expected = evaluate(points_of(config, weights), inputs).values
    calls, output = walked(tmp_path / "c", inputs)
    np.testing.assert_allclose(output, expected["hidden_states_out"], rtol=0, atol=1e-12)
    for call in calls:
        np.testing.assert_allclose(call.stream, expected[f"{call.name}.before"], rtol=0, atol=1e-12)


def test_an_encoder_likewise(tmp_path):
    config = small_config()
    weights = checkpoint(tmp_path / "c", config)
    expected = evaluate(points_of(config, weights), sentences()).values["last_hidden_state"]
    calls, output = walked(tmp_path / "c", sentences())
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-12)
    assert [call.name.split(".")[-1] for call in calls] == ["attention", "mlp"] * 2
    assert all(np.linalg.norm(call.quantised(SCHEMES[1]) - call.exact) > 0 for call in calls)


def test_fp8_is_the_type_of_ml_dtypes():
    every = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    every = np.sort(every[np.isfinite(every)])
    between = (every[1:] + every[:-1]) / 2
    values = np.concatenate([every, between, np.random.default_rng(0).uniform(-448, 448, 4000), every / 1000])
    assert np.array_equal(nearest_fp8(values), values.astype(ml_dtypes.float8_e4m3fn).astype(np.float64))


def test_scales_are_those_of_rows_or_of_all():
    values = np.array([[1.0, -2.0, 0.5], [100.0, 30.0, -0.1], [0.0, 0.0, 0.0]])
    got = to_int8(values, "row")
    expected = np.rint(values[:2] * 127 / [[2.0], [100.0]]) * [[2.0], [100.0]] / 127
    np.testing.assert_allclose(got[:2], expected, rtol=1e-14)
    assert (got[2] == 0).all()
    np.testing.assert_allclose(to_int8(values, "tensor"), np.rint(values * 1.27) / 1.27, rtol=1e-14)
    exact = np.array([[448.0, 0.5], [2.0**-9, -3.5]])
    assert np.array_equal(to_fp8(exact, "tensor"), exact)


def test_a_sublayer_that_is_quantised_as_written_here(tmp_path):
    config = config_of(TABLE["llama_swiglu"], layers=1)
    w = checkpoint(tmp_path / "c", config)
    x = random_input(config).astype(np.float64)
    (call,), _ = walked(tmp_path / "c", {"hidden_states": x})

    def int8(values):
        scale = np.abs(values).max(-1, keepdims=True) / 127
        return np.round(values / scale) * scale

    path = "transformer.layers.0"
    z = rms_norm(x, w[f"{path}.post_layernorm.weight"], config.contract.feed_forward.residual.norm.eps)
    fc, gate, proj = (int8(w[f"{path}.mlp.{name}.weight"]) for name in ("fc", "gate", "proj"))
    inner = ACTIVATION["silu"](int8(z) @ fc.T) * (int8(z) @ gate.T)
    scheme = next(each for each in SCHEMES if each.name == "int8")
    np.testing.assert_allclose(call.quantised(scheme), int8(inner) @ proj.T, rtol=0, atol=1e-12)


def test_outliers():
    values = np.random.default_rng(0).normal(size=(50, 8))
    values[:, 3] *= 30
    found = outliers(values)
    squares = (values**2).sum(0)
    assert found.peak == pytest.approx(np.abs(values).max() / np.sqrt((values**2).mean()))
    assert found.kurtosis == pytest.approx((values**4).mean() / (values**2).mean() ** 2)
    assert found.share == pytest.approx(squares.max() / squares.sum())
    assert found.channel == pytest.approx(np.sqrt(squares.max() / 50 / (values**2).mean()))
    assert outliers(np.zeros((3, 4))).share == 0.25


def test_inputs_that_do_not_fit_are_refused_by_name(tmp_path):
    checkpoint(tmp_path / "c", config_of(TABLE["llama_swiglu"], attention_input=True))
    stored = LazyCheckpoint(tmp_path / "c")
    x = np.zeros((5, HIDDEN))
    with pytest.raises(InputError, match="attention_output is missing; given: hidden_states"):
        Walk(stored, {"hidden_states": x})
    with pytest.raises(
        InputError, match=r"attention_output has shape \(1, 5, 16\); expected \(2, \.\.\., 16\)"
    ):
        Walk(stored, {"hidden_states": x, "attention_output": x[None]})
    checkpoint(tmp_path / "h", config_of(TABLE["hyper_static"]))
    with pytest.raises(ConfigError, match="hyper-connections"):
        Walk(LazyCheckpoint(tmp_path / "h"), {"hidden_states": x})


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A stack whose stream has three channels thirty times as large as the others, and an input for it."""
    folder = tmp_path_factory.mktemp("planted")
    size = 64
    config = stack_config(
        FORMS["llama_swiglu"], hidden_size=size, ffn_hidden_size=FFN, num_hidden_layers=2, final_norm=RMS
    )
    checkpoint(folder / "c", config)
    x = np.random.default_rng(0).normal(size=(40, size)).astype(np.float32)
    x[:, [1, 20, 33]] *= 30
    np.savez(folder / "x.npz", hidden_states=x)
    return folder


def test_outliers_and_int8_errors_shrink_where_channels_stick_out(planted, tmp_path):
    source, output, x = planted / "c", tmp_path / "out", dict(np.load(planted / "x.npz"))
    rotate_checkpoint(source, output)
    steps = []
    weights = compare_weights(
        read_stream_map(source), read_stream_map(output), lambda *step: steps.append(step)
    )
    found = compare_on_input(weights, source, output, load_transform(output), x)
    assert 0 < found.difference < 1e-5 and steps
    for before, after in zip(found.original.sublayers, found.rotated.sublayers, strict=True):
        assert after.errors["int8"] < 0.6 * before.errors["int8"]
        assert after.read.peak < before.read.peak / 2 and after.stream.share < before.stream.share / 4
    header, rows = summary(found)
    assert header[1:] == ["original", "rotated"] and len(rows[0]) == 3
    for row in found.original.weights:
        assert (
            row.side in ("reads", "writes")
            and 0.001 < row.errors["int8"] < 0.02 < row.errors["fp8 row"] < 0.04
        )


def test_matrices_rotated_by_themselves_are_those_of_the_rotated_network(planted, tmp_path):
    rotate_checkpoint(planted / "c", tmp_path / "out")
    alone = compare_alone(read_stream_map(planted / "c"), load_transform(tmp_path / "out").rotation)
    written = compare_weights(read_stream_map(planted / "c"), read_stream_map(tmp_path / "out"))
    for one, other in zip(alone.rotated.weights, written.rotated.weights, strict=True):
        assert (one.part, one.side) == (other.part, other.side)
        for name in ("peak", "kurtosis", "channel", "share"):
            assert getattr(one.outliers, name) == pytest.approx(getattr(other.outliers, name), rel=1e-5)
        assert one.errors == pytest.approx(other.errors, rel=1e-2)


def test_another_network_is_found_out(planted, tmp_path):
    source, output, x = planted / "c", tmp_path / "out", dict(np.load(planted / "x.npz"))
    rotate_checkpoint(source, output, seed=1)
    rotate_checkpoint(source, tmp_path / "other", seed=2)
    nothing = Comparison(Side(), Side())
    with pytest.raises(AnalysisError, match="differs from the original's"):
        compare_on_input(nothing, source, output, load_transform(tmp_path / "other"), x, schemes=())


@pytest.mark.long  # figures take seconds
def test_the_report(planted, tmp_path, capsys):
    options = ["--checkpoint_dir", f"{planted / 'c'}", "--output_dir", f"{tmp_path / 'out'}"]
    options += ["--input", f"{planted / 'x.npz'}", "--report_dir", f"{tmp_path / 'report'}"]
    assert cli.main(["stream", "rotate", *options]) == 0
    assert "error of a sublayer's output, int8" in capsys.readouterr().out
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    tables = {
        item["name"]: item for section in report["sections"] for item in section["items"] if "rows" in item
    }
    assert tables["sublayer_errors"]["header"][3:5] == ["int8", "int8 rotated"]
    assert all(row[4] < row[3] for row in tables["sublayer_errors"]["rows"])
    assert (tmp_path / "report" / "errors_int8.png").is_file()
    post = config_of(TABLE["bert"])  # refused as a whole
    checkpoint(tmp_path / "bert", post)
    alone = [
        "--checkpoint_dir",
        f"{tmp_path / 'bert'}",
        "--weights_only",
        "--report_dir",
        f"{tmp_path / 'alone'}",
    ]
    assert cli.main(["stream", "rotate", *alone]) == 0
    assert (tmp_path / "alone" / "weight_errors_int8.png").is_file()


def test_what_cannot_be_measured_is_refused_before_anything_is_written(planted, tmp_path, capsys):
    options = [
        "stream",
        "rotate",
        "--checkpoint_dir",
        f"{planted / 'c'}",
        "--output_dir",
        f"{tmp_path / 'out'}",
    ]
    np.savez(tmp_path / "wrong.npz", hidden_states=np.zeros((3, 5), np.float32))
    np.savez(tmp_path / "nan.npz", hidden_states=np.full((3, 64), np.nan, np.float32))
    for extra, message in (
        (["--input", f"{planted / 'x.npz'}"], "give --report_dir too"),
        (["--input", f"{tmp_path / 'wrong.npz'}", "--report_dir", f"{tmp_path / 'r'}"], "has shape (3, 5)"),
        (
            ["--input", f"{tmp_path / 'nan.npz'}", "--report_dir", f"{tmp_path / 'r'}"],
            "hidden_states holds NaN",
        ),
        (["--report_dir", f"{tmp_path / 'out'}"], "is a directory of weights"),
        (["--output_dir", f"{planted / 'c'}"], "is what is read"),
        (["--weights_only", "--report_dir", f"{tmp_path / 'r'}"], "writes a report and nothing else"),
    ):
        assert cli.main([*options, *extra]) != 0
        assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_finite_have_no_scale(planted):
    found = read_stream_map(planted / "c")
    part = next(part for part in found.parts if part.writers)
    (writer,) = part.writers
    values = writer.matrix.load().copy()
    values[3, 2] = np.nan
    broken = replace(writer, matrix=replace(writer.matrix, load=lambda: values))
    with pytest.raises(CheckpointError, match=r"holds NaN or infinity, for which there is no scale"):
        compare_alone(replace(found, parts=(replace(part, writers=(broken,)),)), np.eye(64))
