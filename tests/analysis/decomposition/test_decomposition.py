"""The stream as the sum of its parts, against references in float64 NumPy that are written here."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from encoder_formulas import sentences, small_config
from stack_forms import HIDDEN, LAYER, RMS, TABLE, TOKENS, config_of, random_input, residual, streams
from stack_forms import plain as plain_form
from sublayer_formulas import DTYPES

from trtllm_ext.analysis.decomposition import follow
from trtllm_ext.analysis.decomposition.decomposition import decompose
from trtllm_ext.analysis.decomposition.pooled_effects import PooledParts, direction_effects
from trtllm_ext.analysis.running import stream_of
from trtllm_ext.analysis.running.engines import tapped_engine
from trtllm_ext.analysis.running.parts import parts_of
from trtllm_ext.checkpoint import load_checkpoint
from trtllm_ext.errors import AnalysisError, ConfigError
from trtllm_ext.models import write_random_checkpoint
from trtllm_ext.verify.formulas import evaluate, points_of

BUDGET_S = 3
pytestmark = pytest.mark.usefixtures("one_thread")

# A float32 engine's tensors against float64 on the same weights.
CLOSE = 2e-5


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """From a config to (run, weights): built and run once each."""

    @cache
    def made(config, with_attention):
        path = tmp_path_factory.mktemp("model")
        write_random_checkpoint(path / "checkpoint", config, seed=5)
        inputs = (
            sentences() if config.contract.embedding is not None else {"hidden_states": random_input(config)}
        )
        if with_attention:
            shape = (config.num_hidden_layers, TOKENS, HIDDEN)
            given = np.random.default_rng(9).normal(size=shape)
            inputs["attention_output"] = given.astype(DTYPES[config.stream_dtype])
        with tapped_engine(checkpoint_dir=path / "checkpoint") as engine:
            return stream_of(engine, inputs), load_checkpoint(path / "checkpoint").weights, inputs

    return lambda config: made(config, config.contract.attention_input)


def carried(run, weights):
    """The parts' vectors at the end of the stream, by name, and the stream."""
    parts = parts_of(run.config, weights)
    (chunk,) = follow(run, weights, parts)
    return dict(zip(chunk.parts, chunk.vectors, strict=True)), chunk


def far(got, wanted):
    return np.abs(got - wanted).max() / np.abs(wanted).max()


FORMS = {
    "pre": config_of(TABLE["fc bias only"]),
    "proj bias": config_of(TABLE["proj bias only"], attention_input=True, final_norm=LAYER),
    "branch": config_of(plain_form(residual=residual("branch", LAYER)), "bfloat16", final_norm=RMS),
    "every factor": config_of(TABLE["every factor"]),
    "post": config_of(TABLE["wide post"], "bfloat16"),
    "post of RMS": config_of(TABLE["identity"], "float16"),
    "one sum": config_of(TABLE["wide parallel"], "bfloat16", attention_input=True),
    "gated streams": config_of(TABLE["gated streams"], final_norm=LAYER),
    "manifold": config_of(TABLE["few iterations"], "float16"),
}


@pytest.mark.parametrize("name", FORMS)
def test_parts_add_up(models, name):
    run, weights, _ = models(FORMS[name])
    found, chunk = carried(run, weights)
    size = np.linalg.norm(chunk.output, axis=-1)
    assert (np.linalg.norm(chunk.output - run.output, axis=-1) <= 1e-9 * size).all()
    assert chunk.share_of_bound <= 1
    unit = {"float32": 2**-24, "float16": 2**-11, "bfloat16": 2**-8}[run.config.dtype]
    # Beside the engine's rounding, the parts alone are the stream.
    assert far(chunk.stream - found["rounding"], chunk.stream) <= 16 * unit


def test_contributions_of_a_plain_sum_stay_as_they_are(models):
    run, weights, inputs = models(FORMS["proj bias"])
    found, _ = carried(run, weights)
    assert list(found) == [part.name for part in parts_of(run.config, weights)]
    np.testing.assert_array_equal(found["hidden_states"], inputs["hidden_states"].astype(np.float64))
    for layer in range(2):
        path = f"transformer.layers.{layer}"
        np.testing.assert_array_equal(found[f"{path}.attention"], inputs["attention_output"][layer])
        bias = weights[f"{path}.mlp.proj.bias"].astype(np.float64)
        np.testing.assert_array_equal(found[f"{path}.mlp.proj.bias"], np.broadcast_to(bias, (TOKENS, HIDDEN)))
        both = found[f"{path}.mlp"] + bias
        np.testing.assert_allclose(both, run.contribution[f"{path}.mlp"], rtol=0, atol=1e-12)


def normed(parts, whole, weight, bias, eps, name):
    """LayerNorm's statistics of `whole`, its map applied to each part; the bias is a part of that name."""
    deviation = np.sqrt(((whole - whole.mean(-1, keepdims=True)) ** 2).mean(-1, keepdims=True) + eps)
    after = {key: (part - part.mean(-1, keepdims=True)) / deviation * weight for key, part in parts.items()}
    return after | {name: np.broadcast_to(bias, whole.shape)}


def reference_encoder(config, weights, inputs):
    """Each part of a post-norm encoder carried by hand, from the formulas' float64 values: [batch, seq, hidden]."""
    wide = {name: value.astype(np.float64) for name, value in weights.items()}
    values = evaluate(points_of(config, wide), inputs).values
    table = {
        name: wide[f"transformer.embedding.{name}_embedding.weight"]
        for name in ("vocab", "position", "token")
    }
    ids = inputs["input_ids"]
    rows = {
        "vocab": table["vocab"][ids],
        "position": np.broadcast_to(table["position"][: ids.shape[1]], (*ids.shape, config.hidden_size)),
        "token": table["token"][inputs["token_type_ids"]],
    }
    parts = {f"transformer.embedding.{name}_embedding": value for name, value in rows.items()}
    names = ["transformer.embedding.embedding_ln"]
    wholes, eps = [sum(parts.values())], 1e-12
    for layer in range(config.num_hidden_layers):
        path = f"transformer.layers.{layer}"
        for sublayer, norm, bias in (
            ("attention", "input_layernorm", "attention.dense.bias"),
            ("mlp", "post_layernorm", "mlp.proj.bias"),
        ):
            parts = normed(
                parts,
                wholes[-1],
                wide[f"{names[-1]}.weight"],
                wide[f"{names[-1]}.bias"],
                eps,
                f"{names[-1]}.bias",
            )
            added = values[f"{path}.{sublayer}.contribution"]
            parts[f"{path}.{sublayer}"] = added - wide[f"{path}.{bias}"]
            parts[f"{path}.{bias}"] = np.broadcast_to(wide[f"{path}.{bias}"], added.shape)
            names.append(f"{path}.{norm}")
            wholes.append(values[f"{path}.{sublayer}.after"])
    parts = normed(
        parts, wholes[-1], wide[f"{names[-1]}.weight"], wide[f"{names[-1]}.bias"], eps, f"{names[-1]}.bias"
    )
    np.testing.assert_allclose(sum(parts.values()), values["last_hidden_state"], rtol=0, atol=1e-10)
    return parts, values


def test_an_encoder_s_parts_pass_every_later_norm(models):
    run, weights, inputs = models(small_config())
    found, _ = carried(run, weights)
    wanted, values = reference_encoder(run.config, weights, inputs)
    keep = inputs["attention_mask"] != 0
    size = np.abs(values["last_hidden_state"]).max()
    assert set(found) == {*wanted, "rounding"}
    for name, value in wanted.items():
        assert np.abs(found[name] - value[keep]).max() <= CLOSE * size, name


def test_static_streams_carry_the_input_through_their_matrices(models):
    form = plain_form(residual=residual("pre", LAYER, hyper_connections=streams("static", 3)))
    run, weights, inputs = models(config_of(form))
    found, _ = carried(run, weights)
    h = np.repeat(inputs["hidden_states"].astype(np.float64)[:, None], 3, 1)
    for layer in range(2):
        alpha = weights[f"transformer.layers.{layer}.mlp_connections.static_alpha"].astype(np.float64)
        h = np.stack([sum(alpha[i, 1 + j] * h[:, i] for i in range(3)) for j in range(3)], 1)
    assert far(found["hidden_states"], h.sum(1)) <= 1e-12


def test_lengths_shares_and_cosines(models):
    run, weights, _ = models(FORMS["proj bias"])
    result = decompose(run, weights)
    found, chunk = carried(run, weights)
    x = chunk.stream
    for number, name in enumerate(result.part_names):
        part = found[name]
        for token in range(TOKENS):
            norm = np.linalg.norm(part[token])
            assert result.norm[number, token] == pytest.approx(norm, rel=1e-12)
            assert result.share[number, token] == pytest.approx(
                part[token] @ x[token] / (x[token] @ x[token]), abs=1e-12
            )
    np.testing.assert_allclose(result.share.sum(0), 1, rtol=0, atol=1e-12)
    joining, first = result.joining, "transformer.layers.0.mlp"
    row = joining.names.index(first)
    added, before, after = (
        getattr(run, point)[first].astype(np.float64) for point in ("contribution", "before", "after")
    )
    for token in range(TOKENS):
        both = np.linalg.norm(added[token]) * np.linalg.norm(before[token])
        assert joining.cosine_before[row, token] == pytest.approx(
            added[token] @ before[token] / both, abs=1e-12
        )
        share = added[token] @ after[token] / (after[token] @ after[token])
        assert joining.share[row, token] == pytest.approx(share, abs=1e-12)


def test_chunks_of_tokens_give_the_same(models):
    run, weights, _ = models(FORMS["post"])
    parts = parts_of(run.config, weights)
    (whole,) = follow(run, weights, parts)
    pieces = list(follow(run, weights, parts, chunk_bytes=1))
    assert len(pieces) == TOKENS
    np.testing.assert_allclose(
        np.concatenate([piece.vectors for piece in pieces], 1), whole.vectors, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("kind", ["mean", "cls", "pooler"])
def test_the_pooled_vector_is_the_sum_of_its_parts(models, kind):
    run, weights, inputs = models(small_config(kind=kind))
    pooled = PooledParts(run, parts_of(run.config, weights), weights)
    decompose(run, weights, visitors=[pooled])
    names, vectors = pooled.vectors()
    parts, values = reference_encoder(run.config, weights, inputs)
    keep = (inputs["attention_mask"] != 0)[..., None]
    wanted = {
        name: (part * keep).sum(1) / keep.sum(1) if kind == "mean" else part[:, 0]
        for name, part in parts.items()
    }
    if kind == "pooler":
        matrix, bias = (
            weights[f"transformer.pooler.dense.{leaf}"].astype(np.float64) for leaf in ("weight", "bias")
        )
        wanted = {name: part @ matrix.T for name, part in wanted.items()}
        wanted["transformer.pooler.dense.bias"] = np.broadcast_to(bias, (len(keep), len(bias)))
        z = sum(wanted.values())
        wanted = {name: part * np.tanh(z) / z for name, part in wanted.items()}
    length = np.linalg.norm(sum(wanted.values()), axis=-1, keepdims=True)
    for name, part in wanted.items():
        np.testing.assert_allclose(vectors[names.index(name)], part / length, rtol=0, atol=CLOSE)
    unit = values["sentence_embedding"]
    effects = direction_effects(vectors, unit)
    np.testing.assert_allclose(effects.sum(0), unit @ unit.T, rtol=0, atol=CLOSE)
    with pytest.raises(ConfigError, match=r"shape \(2, 5\); expected \[directions, 32\]"):
        direction_effects(vectors, np.zeros((2, 5)))
    with pytest.raises(ConfigError, match="float64, or hold NaN or infinity; expected finite numbers"):
        direction_effects(vectors, np.full((2, 32), np.nan))


def test_other_weights_are_found_out_by_the_first_step_that_they_touch(models):
    run, weights, _ = models(small_config())
    name = "transformer.layers.0.post_layernorm.weight"
    with pytest.raises(
        AnalysisError, match=r"leaves the stream at transformer.layers.0.post_layernorm: at token"
    ):
        decompose(run, {**weights, name: weights[name] * np.float32(1.001)})
    table = "transformer.embedding.position_embedding.weight"
    with pytest.raises(AnalysisError, match=r"leaves the stream at transformer.layers.0.attention.before"):
        decompose(run, {**weights, table: weights[table][::-1]})


def test_a_step_that_is_no_sum_is_named(models):
    run, weights, _ = models(FORMS["pre"])
    name = "transformer.layers.1.mlp"
    bent = {**run.after, name: np.clip(run.after[name], -1, 1)}
    with pytest.raises(AnalysisError, match=rf"leaves the stream at {name}: at token \d+ it is"):
        decompose(replace(run, after=bent), weights)
    bent = {**run.contribution, name: np.where(np.arange(HIDDEN) == 3, np.nan, run.contribution[name])}
    with pytest.raises(AnalysisError, match=rf"NaN or infinity at {name}, token 0"):
        decompose(replace(run, contribution=bent), weights)


def test_t5_s_clamp_is_no_sum(tmp_path):
    """Where a float16 sum overflowed, the stream is not what was added to it."""
    form = plain_form(residual=residual("pre", LAYER, scale=500.0, clamp="float16"))
    write_random_checkpoint(tmp_path / "checkpoint", config_of(form, "float16"), seed=5)
    x = np.full((2, HIDDEN), 100, np.float16)
    x[1, ::2] = 65500
    with tapped_engine(checkpoint_dir=tmp_path / "checkpoint") as engine:
        run = stream_of(engine, {"hidden_states": x})
    with pytest.raises(
        AnalysisError, match=r"leaves the stream at transformer\.layers\.0\.mlp: .*T5's clamp"
    ):
        decompose(run)


def test_what_needs_weights_asks_for_them(models):
    plain, _, _ = models(FORMS["pre"])
    assert "transformer.layers.0.mlp.proj.bias" not in decompose(plain).part_names
    run, _, _ = models(small_config())
    with pytest.raises(ConfigError, match=r"does not give its weights back. Give the checkpoint"):
        decompose(run)
