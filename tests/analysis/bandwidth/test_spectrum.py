"""The stream's spectrum, who fills it and what the writers reach, against NumPy on whole arrays."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from encoder_formulas import sentences, small_config
from stack_forms import HIDDEN, LAYER, RMS, config_of, plain, residual, streams

from trtllm_ext.analysis.bandwidth.bandwidth import bandwidth
from trtllm_ext.analysis.bandwidth.massive import Magnitudes
from trtllm_ext.analysis.bandwidth.moments import Moments, dimensions
from trtllm_ext.analysis.bandwidth.spectrum import point_behind, spectra, stream_points
from trtllm_ext.analysis.bandwidth.writer_spectra import writer_spectra
from trtllm_ext.analysis.running.engines import tapped_engine
from trtllm_ext.analysis.running.stream_pieces import StreamPieces
from trtllm_ext.analysis.stream_map import read_stream_map
from trtllm_ext.builder import BuildConfig, build_engine_dir
from trtllm_ext.checkpoint import load_checkpoint
from trtllm_ext.errors import CheckpointError, ConfigError, EngineError, InputError
from trtllm_ext.models import write_random_checkpoint

BUDGET_S = 3
pytestmark = pytest.mark.usefixtures("one_thread")

TOKENS = 90
GENERATOR = np.random.default_rng(4)


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """A pre-norm stack with a factor of the skip: (checkpoint directory, engine directory, input)."""
    folder = tmp_path_factory.mktemp("stack")
    config = config_of(plain(activation="relu", residual=residual("pre", LAYER, skip_scale=0.8, scale=1.5)))
    write_random_checkpoint(folder / "checkpoint", config, seed=5)
    x = (GENERATOR.normal(size=(TOKENS, HIDDEN)) * np.linspace(0.1, 3, HIDDEN) + 2).astype(np.float32)
    with tapped_engine(checkpoint_dir=folder / "checkpoint") as engine:
        yield folder / "checkpoint", engine, {"hidden_states": x}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Post-norm with attention: (checkpoint directory, engine directory, input)."""
    folder = tmp_path_factory.mktemp("encoder")
    write_random_checkpoint(folder / "checkpoint", small_config(), seed=2)
    with tapped_engine(checkpoint_dir=folder / "checkpoint") as engine:
        yield folder / "checkpoint", engine, sentences(batch=6)


def looked_at(model, **options):
    checkpoint, engine, inputs = model
    pieces = StreamPieces(engine, inputs, **options)
    return bandwidth(pieces, read_stream_map(checkpoint), load_checkpoint(checkpoint).weights), pieces


def taps_of(pieces):
    (piece,) = pieces.passes("taps")
    return piece.run


# --- moments and measures -----------------------------------------------------------------------------------------


def test_moments_of_chunks_are_those_of_all_vectors_and_a_large_mean_costs_no_digits():
    x = GENERATOR.normal(size=(101, 6)) * [1, 2, 3, 4, 5, 6] + 1e7
    moments = Moments(6)
    for chunk in np.split(x, [1, 40, 40, 77]):
        moments.add(chunk)
    assert moments.count == 101
    np.testing.assert_allclose(moments.mean, x.mean(0), rtol=1e-14)
    # What x itself is rounded by is 1e-9 here; the plain sum of squares would be off by a hundredth.
    np.testing.assert_allclose(moments.second(), np.cov(x.T, bias=True), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(moments.second(centred=False), x.T @ x / 101, rtol=1e-13)


@pytest.mark.parametrize(
    ("values", "ratio", "rank", "most"),
    [
        ([2.0] * 8, 8, 8, 8),
        ([5.0, 0, 0], 1, 1, 1),
        ([4.0, 1, 1, 0], 2, np.exp(4 / 6 * np.log(6 / 4) + 2 / 6 * np.log(6)), 3),
    ],
)
def test_dimensions_of_known_spectra(values, ratio, rank, most):
    found = dimensions(np.array(values))
    assert found.participation_ratio == pytest.approx(ratio)
    assert found.effective_rank == pytest.approx(rank)
    assert found.for_99 == most
    assert dimensions(np.zeros(3)).effective_rank == 0


def test_dimensions_are_named_by_what_they_hold_and_massive_ones_by_the_paper():
    x = GENERATOR.normal(size=(20, 8))
    x[13, 5] = -4000.0
    magnitudes = Magnitudes(8)
    magnitudes.add(x[:10], 0, [f"w{i}" for i in range(10)])
    magnitudes.add(x[10:], 10, [f"w{i}" for i in range(10, 20)])
    first, second = magnitudes.named(2)
    squares = (x**2).sum(0)
    assert (first.index, first.value, first.token, first.text) == (5, -4000.0, 13, "w13")
    assert first.is_massive and not second.is_massive
    assert first.ratio == pytest.approx(4000 / np.median(np.abs(x[13])))
    assert first.share == pytest.approx(squares[5] / squares.sum())
    assert magnitudes.norm == pytest.approx(np.sqrt((x**2).sum(1).mean()))


# --- the stream ---------------------------------------------------------------------------------------------------


def test_spectra_are_the_singular_values_of_the_taps(encoder):
    found, pieces = looked_at(encoder)
    run = taps_of(pieces)
    points = {f"{part.name}.before": run.before[part.name] for part in run.parts} | {"final": run.output}
    assert [each.name for each in found.points] == list(points)
    for each in found.points:
        x = points[each.name].astype(np.float64)
        for values, whole in ((each.centred, x - x.mean(0)), (each.uncentred, x)):
            expected = np.linalg.svd(whole, compute_uv=False) ** 2 / len(x)
            np.testing.assert_allclose(values, expected, atol=1e-12 * expected[0])
        assert each.num_tokens == len(x)
        assert each.mean_share == pytest.approx((x.mean(0) ** 2).sum() / (x**2).sum(1).mean())


def test_pieces_of_the_input_and_points_in_several_passes_give_the_same(stack, encoder):
    for model in (stack, encoder):
        whole, _ = looked_at(model)
        checkpoint, engine, inputs = model
        pieces = StreamPieces(engine, inputs, piece_bytes=20000 if model is stack else 60000)
        assert len(list(pieces.passes("count"))) > 1
        parts = bandwidth(
            pieces,
            read_stream_map(checkpoint),
            load_checkpoint(checkpoint).weights,
            moments_bytes=2 * 8 * 32**2,
        )
        for one, other in zip(whole.points, parts.points, strict=True):
            np.testing.assert_allclose(one.centred, other.centred, atol=1e-6 * one.centred[0])
            assert [each.token for each in one.named] == [each.token for each in other.named]
        for one, other in zip(whole.fillings, parts.fillings, strict=True):
            assert one.own == pytest.approx(other.own, abs=1e-5)
            assert one.share == pytest.approx(other.share, abs=1e-5)
        assert {each.part: each.overlap and each.overlap.point for each in whole.writers} == {
            each.part: each.overlap and each.overlap.point for each in parts.writers
        }


def test_who_fills_the_stream_against_whole_covariances(stack):
    found, pieces = looked_at(stack)
    run = taps_of(pieces)
    first, second = (part.name for part in run.parts)
    # 0.8 is the factor of the skip: what has joined before is carried on with it.
    carried = {
        f"{first}.before": {"hidden_states": run.before[first]},
        f"{second}.before": {"hidden_states": 0.8 * run.before[first], first: run.contribution[first]},
        "final": {
            "hidden_states": 0.64 * run.before[first],
            first: 0.8 * run.contribution[first],
            second: run.contribution[second],
        },
    }
    streams_ = {f"{first}.before": run.before[first], f"{second}.before": run.before[second]}
    streams_["final"] = run.after[second]
    for each in found.fillings:
        x = streams_[each.point].astype(np.float64)
        centred = x - x.mean(0)
        values, vectors = np.linalg.eigh(centred.T @ centred)
        held = np.cumsum(values[::-1]) / values.sum()
        leading = vectors[:, ::-1][:, : int((held < 0.9).sum()) + 1]
        assert sum(each.share.values()) == pytest.approx(1, abs=1e-10)
        for name, part in carried[each.point].items():
            own = part - part.mean(0)
            expected = np.trace(leading.T @ own.T @ centred @ leading) / ((centred @ leading) ** 2).sum()
            # proj has a bias in no form here; what rounding brings is a part of its own.
            assert each.share[name] == pytest.approx(expected, abs=1e-6), (each.point, name)
            if name in each.own:
                inside = ((own @ leading) ** 2).sum() / (own**2).sum()
                assert each.own[name] == pytest.approx(inside, abs=1e-6)
        assert set(each.own) == {"final": {second}, f"{second}.before": {first}}.get(each.point, set())
        assert each.random_own == leading.shape[1] / HIDDEN


# --- the writers --------------------------------------------------------------------------------------------------


def test_writers_reach_the_singular_values_of_their_folded_matrices(tmp_path):
    form = plain(residual=residual("sandwich", RMS, LAYER, gate="channel", scale=0.5))
    write_random_checkpoint(tmp_path, config_of(form), seed=3)
    weights = {name: value.astype(np.float64) for name, value in load_checkpoint(tmp_path).weights.items()}
    for layer, found in enumerate(writer_spectra(read_stream_map(tmp_path))):
        path = f"transformer.layers.{layer}"
        centring = np.eye(HIDDEN) - 1 / HIDDEN
        gain = np.diag(
            weights[f"{path}.mlp_scale.weight"] * (weights[f"{path}.post_feedforward_layernorm.weight"] + 1)
        )
        matrix = 0.5 * gain @ centring @ weights[f"{path}.mlp.proj.weight"]
        expected = np.linalg.svd(matrix, compute_uv=False)
        np.testing.assert_allclose(found.singular_values, expected, atol=1e-7 * expected[0])
        p = expected[expected > 1e-6] / expected.sum()
        assert found.effective_rank == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-5)
        assert found.participation_ratio == pytest.approx((expected**2).sum() ** 2 / (expected**4).sum())


def test_overlap_with_the_streams_leading_directions(encoder):
    checkpoint, *_ = encoder
    leading, _ = np.linalg.qr(GENERATOR.normal(size=(32, 5)))
    part = "transformer.layers.1.attention"
    stream_map = read_stream_map(checkpoint)
    found = {each.part: each for each in writer_spectra(stream_map, {part: ("there", leading)})}
    weights = {name: value.astype(np.float64) for name, value in load_checkpoint(checkpoint).weights.items()}
    # What joins passes the norm of the sum before the stream is looked at.
    gain = np.diag(weights["transformer.layers.1.input_layernorm.weight"])
    matrix = gain @ (np.eye(32) - 1 / 32) @ weights[f"{part}.dense.weight"]
    u, s, _ = np.linalg.svd(matrix)
    held = int((np.cumsum(s**2) / (s**2).sum() < 0.9).sum()) + 1
    beside = found[part].overlap
    assert found[part].leading == held
    assert beside.energy == pytest.approx(((leading.T @ matrix) ** 2).sum() / (s**2).sum())
    assert beside.overlap == pytest.approx(((leading.T @ u[:, :held]) ** 2).sum() / min(held, 5))
    assert (beside.random_energy, beside.random_overlap) == (5 / 32, max(held, 5) / 32)
    assert found["transformer.layers.0.mlp"].overlap is None


# --- limits -------------------------------------------------------------------------------------------------------


def test_any_number_of_tokens_takes_the_same_memory(stack):
    checkpoint, engine, _ = stack
    weights = load_checkpoint(checkpoint).weights
    peaks = []
    for tokens in (800, 1600):
        inputs = {"hidden_states": np.ones((tokens, HIDDEN), np.float32)}
        inputs["hidden_states"][:, 0] = np.linspace(-1, 1, tokens)
        pieces = StreamPieces(engine, inputs, piece_bytes=400 * 4 * HIDDEN * 6)
        tracemalloc.start()
        bandwidth(pieces, None, weights)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Six taps of each of the 800 tokens more would be 307200 bytes.
    assert peaks[1] - peaks[0] < 800 * HIDDEN * 4 * 6 / 4


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_labels_of_another_number_of_tokens_are_left_out(stack, more):
    _, engine, inputs = stack
    count = len(inputs["hidden_states"])
    labels = [f"t{number}" for number in range(count + more)]
    for piece_bytes in (1 << 20, 4 * 4 * HIDDEN * 6):
        pieces = StreamPieces(engine, inputs, labels=labels, piece_bytes=piece_bytes)
        told = [piece.run.tokens for piece in pieces.passes("step")]
        assert (
            all(tokens is None for tokens in told)
            if more
            else [each for tokens in told for each in tokens] == labels
        )


def test_bad_input_is_refused_by_name(stack, tmp_path):
    checkpoint, engine, inputs = stack
    with pytest.raises(ConfigError, match="takes two tokens or more, and the input has 1"):
        one = StreamPieces(engine, {"hidden_states": inputs["hidden_states"][:1]})
        list(spectra(one, stream_points(one.config)))
    with pytest.raises(InputError, match="'hidden_states' is missing or empty; given: x"):
        list(StreamPieces(engine, {"x": inputs["hidden_states"]}).passes("step"))
    with pytest.raises(ConfigError, match="give input for an engine, or a model"):
        bandwidth(None, None, None)
    build_engine_dir(checkpoint, tmp_path / "plain", BuildConfig(max_num_tokens=8))
    with pytest.raises(EngineError, match=r"built without the tap transformer\.layers\.0\.mlp\.before and 5"):
        StreamPieces(tmp_path / "plain", inputs)
    form = plain(residual=residual(hyper_connections=streams("dynamic", 2)))
    config = config_of(form)
    with pytest.raises(ConfigError, match="2 residual streams"):
        stream_points(config)
    write_random_checkpoint(tmp_path / "streams", config)
    with pytest.raises(CheckpointError, match=r"layers\.0\.mlp does not write to one stream: hyper"):
        list(writer_spectra(read_stream_map(tmp_path / "streams")))
    with pytest.raises(InputError, match="NaN or infinity"):
        Moments(2).add(np.array([[1.0, np.inf]]))


def test_interrupted_where_progress_is_told(stack):
    def interrupt(step, done, total):
        if step == "who fills the stream":
            raise KeyboardInterrupt

    checkpoint, engine, inputs = stack
    with pytest.raises(KeyboardInterrupt):
        bandwidth(StreamPieces(engine, inputs), None, load_checkpoint(checkpoint).weights, interrupt)


def test_points_of_a_sum_of_two_and_of_a_final_norm_behind_a_norm_of_the_sum():
    together = config_of(plain(residual=residual(parallel="shared_norm")), attention_input=True)
    assert stream_points(together)[0] == "transformer.layers.0.mlp.before"
    assert point_behind(together)["transformer.layers.0.attention"] == "transformer.layers.1.mlp.before"
    twice = config_of(plain(residual=residual("post")), final_norm=RMS)
    assert stream_points(twice) == [f"transformer.layers.{layer}.mlp.before" for layer in (0, 1)]
    assert "transformer.layers.1.mlp" not in point_behind(twice)
    assert stream_points(replace(twice, contract=replace(twice.contract, final_norm=None)))[-1] == "final"


def test_weights_that_are_not_finite_have_no_spectrum(tmp_path):
    write_random_checkpoint(tmp_path / "model", config_of(plain()), seed=1)
    found = read_stream_map(tmp_path / "model")
    part = found.parts[0]
    (writer,) = part.writers
    values = writer.matrix.load()
    values[3, 2] = np.nan
    broken = replace(writer, matrix=replace(writer.matrix, load=lambda: values))
    with pytest.raises(CheckpointError, match=r"layers\.0\.mlp\.proj.*NaN or infinity"):
        list(writer_spectra(replace(found, parts=(replace(part, writers=(broken,)),))))
