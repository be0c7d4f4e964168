"""The token that fires a neuron, and all neurons' sum beside the engine's contribution, in float64 NumPy."""

import numpy as np
import pytest
from neuron_folding import folded, wide
from stack_forms import HIDDEN, LAYER, TABLE, config_of, plain, residual

from trtllm_ext.analysis.neurons.activity import FeedForwardNeurons
from trtllm_ext.analysis.neurons.survey import survey_neurons
from trtllm_ext.analysis.running import stream_of
from trtllm_ext.analysis.running.engines import tapped_engine
from trtllm_ext.analysis.running.stream_pieces import StreamPieces
from trtllm_ext.analysis.stream_map import read_stream_map
from trtllm_ext.checkpoint.lazy import LazyCheckpoint
from trtllm_ext.errors import EngineError, InputError
from trtllm_ext.models import write_random_checkpoint

BUDGET_S = 1
pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_token_that_fires_a_neuron_and_what_goes_away(tmp_path):
    form = plain(
        activation="tanh", proj_bias=True, residual=residual("pre", LAYER, scale=0.7, skip_scale=0.9)
    )
    write_random_checkpoint(tmp_path, config_of(form), seed=7)
    weights = wide(tmp_path)
    x = np.random.default_rng(3).normal(size=(50, HIDDEN)).astype(np.float32)
    with tapped_engine(checkpoint_dir=tmp_path) as engine:
        pieces = StreamPieces(engine, {"hidden_states": x}, piece_bytes=30 * 4 * HIDDEN * 6)
        assert len(list(pieces.passes("count"))) == 2
        run = stream_of(engine, {"hidden_states": x})
        found = survey_neurons(read_stream_map(tmp_path), 3, LazyCheckpoint(tmp_path), pieces)
    assert len(found.examples) == 2 * 2 * 3
    for example in found.examples:
        path, neuron = f"transformer.layers.{example.neuron.unit.layer}", example.neuron.index
        stream = run.before[f"{path}.mlp"].astype(np.float64)
        before, _ = folded(form, weights, path)
        direction = (weights[f"{path}.mlp.fc.weight"] @ before)[neuron]
        direction /= np.linalg.norm(direction)
        centred = stream - stream.mean(1, keepdims=True)
        normed = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-3)
        normed = (
            normed * (weights[f"{path}.post_layernorm.weight"] + 1) + weights[f"{path}.post_layernorm.bias"]
        )
        read = normed @ weights[f"{path}.mlp.fc.weight"][neuron] + weights[f"{path}.mlp.fc.bias"][neuron]
        activation = np.tanh(read)
        token = np.abs(activation).argmax()
        assert example.token == token
        assert example.text is None
        assert example.activation == pytest.approx(activation[token], abs=1e-12)
        component = 0.9 * stream @ direction
        own = activation * 0.7 * (weights[f"{path}.mlp.proj.weight"][:, neuron] @ direction)
        added = run.contribution[f"{path}.mlp"].astype(np.float64) @ direction
        assert (example.before, example.own) == pytest.approx((component[token], own[token]), abs=1e-10)
        assert example.sublayer == pytest.approx(added[token], abs=1e-10)
        rms = np.sqrt([(each**2).mean() for each in (component, component + own, component + added)])
        assert example.gone == pytest.approx(1 - rms[1] / rms[0])
        assert example.gone_with_sublayer == pytest.approx(1 - rms[2] / rms[0])
    assert max(found.agreement.errors.values()) < 2e-6
    assert (found.agreement.num_tokens, found.agreement.not_compared) == (50, 0)


def agreement_of(form, folder):
    config = config_of(form)
    write_random_checkpoint(folder, config, seed=5)
    x = np.random.default_rng(3).normal(size=(7, HIDDEN)).astype(np.float32)
    with tapped_engine(checkpoint_dir=folder) as engine:
        run = stream_of(engine, {"hidden_states": x})
    checkpoint = LazyCheckpoint(folder)
    for layer in range(2):
        path = f"transformer.layers.{layer}.mlp"
        neurons = FeedForwardNeurons(checkpoint, layer)
        fired = neurons.fire(run.before[path])
        expected = run.contribution[path]
        np.testing.assert_allclose(fired.contribution, expected, atol=2e-6 * np.abs(expected).max())
        # The write directions times the activations are it, but for the biases that they leave out.
        total = np.zeros_like(fired.contribution)
        for each in fired.activities:
            written = neurons.written(each.unit, np.arange(each.values.shape[1]))
            weight = each.factor * fired.inverse_sigma[each.tokens]
            total[each.tokens] += weight[:, None] * (each.values @ written)
        if form.mixture is not None and not form.proj_bias:
            np.testing.assert_allclose(total, fired.contribution, atol=1e-12)


@pytest.mark.parametrize("name", ["gpt_oss_clamped", "mixture_softmax_shared", "inner_norm", "every factor"])
def test_all_neurons_add_up_to_the_engines_contribution(name, tmp_path):
    agreement_of(TABLE[name], tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in TABLE if TABLE[name].residual.hyper_connections is None])
def test_all_neurons_add_up_in_every_form(name, tmp_path):
    agreement_of(TABLE[name], tmp_path)


def test_another_checkpoint_than_the_engines_is_refused_by_the_part(tmp_path):
    for seed in (1, 2):
        write_random_checkpoint(tmp_path / str(seed), config_of(plain()), seed=seed)
    x = {"hidden_states": np.ones((3, HIDDEN), np.float32)}
    with (
        tapped_engine(checkpoint_dir=tmp_path / "1") as engine,
        pytest.raises(
            EngineError, match=r"transformer\.layers\.0\.mlp: its neurons, computed .* expected at most 1e-05"
        ),
    ):
        survey_neurons(
            read_stream_map(tmp_path / "2"), 1, LazyCheckpoint(tmp_path / "2"), StreamPieces(engine, x)
        )


def test_nan_in_the_stream_is_refused_by_the_token(tmp_path):
    write_random_checkpoint(tmp_path, config_of(plain()), seed=1)
    x = np.ones((40, HIDDEN), np.float32)
    x[36, 3] = np.nan
    with tapped_engine(checkpoint_dir=tmp_path) as engine:
        pieces = StreamPieces(engine, {"hidden_states": x}, piece_bytes=30 * 4 * HIDDEN * 6)
        with pytest.raises(InputError, match=r"layers\.0\.mlp reads or gives NaN or infinity at token 36: "):
            survey_neurons(read_stream_map(tmp_path), 1, LazyCheckpoint(tmp_path), pieces)
