"""The logit lens and direct logit attribution against float64 NumPy written here."""

import numpy as np
import pytest
from stack_forms import HIDDEN, RMS, TABLE, TOKENS, config_of, random_input

from trtllm_ext.analysis.decomposition.decomposition import decompose
from trtllm_ext.analysis.decomposition.direct_effects import Questions, examine
from trtllm_ext.analysis.decomposition.lens import LogitAttribution, top_tokens
from trtllm_ext.analysis.decomposition.lens_sources import lens_of_arrays
from trtllm_ext.analysis.running.engines import tapped_engine
from trtllm_ext.checkpoint import load_checkpoint
from trtllm_ext.errors import CheckpointError, ConfigError, InputError
from trtllm_ext.models import write_random_checkpoint

BUDGET_S = 1
pytestmark = pytest.mark.usefixtures("one_thread")

VOCAB, EPS = 37, 1e-3
IDS = (3, 36)


def arrays(kind="layer_norm", seed=1):
    rng = np.random.default_rng(seed)
    found = {
        "weight": rng.normal(size=(VOCAB, HIDDEN)),
        "bias": rng.normal(size=VOCAB),
        "norm_kind": np.array(kind),
        "norm_eps": np.array(EPS),
        "norm_weight": rng.normal(size=HIDDEN),
        "scale": np.array(0.25),
    }
    return found | ({"norm_bias": rng.normal(size=HIDDEN)} if kind == "layer_norm" else {})


def normed(x, values, whole=None):
    """The final norm's linear part of x with the statistics of `whole`; its bias where that is x itself."""
    centred = values["norm_kind"] == "layer_norm"
    of, own = (x if whole is None else whole), x - x.mean(-1, keepdims=True) if centred else x
    of = of - of.mean(-1, keepdims=True) if centred else of
    y = own / np.sqrt((of**2).mean(-1, keepdims=True) + EPS) * values["norm_weight"]
    return y + values.get("norm_bias", 0.0) if whole is None else y


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    """From whether it has a final norm of its own to an engine's directory, its weights and input."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRTLLM_EXT_NUM_THREADS", "1")
        found, open_ = {}, []
        for has_norm in (False, True):
            path = tmp_path_factory.mktemp("stack") / "checkpoint"
            config = config_of(TABLE["fc bias only"], final_norm=RMS if has_norm else None)
            write_random_checkpoint(path, config, seed=6)
            context = tapped_engine(checkpoint_dir=path)
            open_.append(context)
            found[has_norm] = (
                context.__enter__(),
                load_checkpoint(path).weights,
                {"hidden_states": random_input(config)},
            )
        yield found
        for context in open_:
            context.__exit__(None, None, None)


@pytest.mark.parametrize("kind", ["layer_norm", "rms_norm"])
def test_top_tokens_in_chunks_of_the_vocabulary(kind):
    values = arrays(kind)
    lens = lens_of_arrays("x.npz", values)
    x = np.random.default_rng(2).normal(size=(TOKENS, HIDDEN))
    logits = (normed(x, values) @ values["weight"].T + values["bias"]) * 0.25
    order = np.argsort(-logits, axis=1)[:, :4]
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for chunk_bytes in (1, 8 * HIDDEN * 10, 1 << 20):  # one token at a time, ten, all
        found = top_tokens(lens, lens.load(), x, 4, chunk_bytes=chunk_bytes)
        np.testing.assert_array_equal(found.ids, order)
        np.testing.assert_allclose(found.logits, np.take_along_axis(logits, order, 1), rtol=0, atol=1e-12)
        np.testing.assert_allclose(
            found.probabilities, np.take_along_axis(shares, order, 1), rtol=0, atol=1e-12
        )
    assert top_tokens(lens, lens.load(), x, 99).ids.shape == (TOKENS, VOCAB)


@pytest.mark.parametrize("kind", ["layer_norm", "rms_norm"])
def test_attribution_adds_up_to_the_logits(engines, kind):
    engine, weights, inputs = engines[False]
    values = arrays(kind)
    found = examine(engine, weights, inputs, questions=Questions(lens_of_arrays("x.npz", values), IDS))
    run = found.result.run
    x, rows = run.output.astype(np.float64), values["weight"][list(IDS)]
    logits = (normed(x, values) @ rows.T + values["bias"][list(IDS)]) * 0.25
    np.testing.assert_allclose(found.attribution.logits, logits, rtol=0, atol=1e-12)
    effects = dict(zip(found.attribution.names, found.attribution.values, strict=True))
    np.testing.assert_allclose(sum(effects.values()), logits, rtol=0, atol=1e-12)
    for name, part in {"hidden_states": inputs["hidden_states"], **run.contribution}.items():
        wanted = normed(part.astype(np.float64), values, whole=x) @ rows.T * 0.25
        np.testing.assert_allclose(effects[name], wanted, rtol=0, atol=1e-12, err_msg=name)
    # The lens behind each sublayer: of the last one it is what the model says.
    assert list(found.top) == ["embedding", "transformer.layers.0.mlp", "transformer.layers.1.mlp"]
    everything = (normed(x, values) @ values["weight"].T + values["bias"]) * 0.25
    np.testing.assert_array_equal(found.top["transformer.layers.1.mlp"].ids[:, 0], everything.argmax(1))
    assert ("final_norm.bias" in effects) == (kind == "layer_norm")
    if kind == "layer_norm":
        shift = np.tile(values["norm_bias"] @ rows.T * 0.25, (TOKENS, 1))
        np.testing.assert_allclose(effects["final_norm.bias"], shift, rtol=0, atol=1e-12)


def test_without_targets_each_token_s_likeliest_is_taken_apart(engines):
    engine, weights, inputs = engines[False]
    found = examine(engine, weights, inputs, questions=Questions(lens_of_arrays("x.npz", arrays())))
    last = found.top["transformer.layers.1.mlp"]
    np.testing.assert_array_equal(found.attribution.ids, last.ids[:, :1])
    np.testing.assert_allclose(found.attribution.logits, last.logits[:, :1], rtol=0, atol=1e-6)


def test_an_engine_with_a_final_norm_lends_it_to_the_lens(engines):
    engine, weights, inputs = engines[True]
    bare = {name: value for name, value in arrays().items() if name in ("weight", "bias")}
    found = examine(engine, weights, inputs, questions=Questions(lens_of_arrays("x.npz", bare), IDS))
    logits = (
        found.result.run.output.astype(np.float64) @ bare["weight"][list(IDS)].T + bare["bias"][list(IDS)]
    )
    np.testing.assert_allclose(found.attribution.logits, logits, rtol=0, atol=1e-4)
    with pytest.raises(ConfigError, match="has a final norm of its own, and the lens of"):
        examine(engine, weights, inputs, questions=Questions(lens_of_arrays("x.npz", arrays()), IDS))


def test_attribution_in_chunks_of_tokens(engines, monkeypatch):
    engine, weights, inputs = engines[False]
    lens = lens_of_arrays("x.npz", arrays())
    whole = examine(engine, weights, inputs, questions=Questions(lens, IDS))
    run, names = whole.result.run, whole.result.part_names
    monkeypatch.setattr("trtllm_ext.analysis.decomposition.following.follow.__defaults__", (1,))
    found = LogitAttribution(lens, lens.load(), names, run.num_tokens, np.array([IDS]))
    decompose(run, weights, visitors=[found])
    np.testing.assert_allclose(found.values, whole.attribution.values, rtol=0, atol=1e-12)


def test_more_tokens_than_memory_has_room_for_are_refused(engines, monkeypatch):
    engine, weights, inputs = engines[False]
    # Two layers, three taps each, 16 float32 numbers a token.
    monkeypatch.setattr("trtllm_ext.analysis.decomposition.direct_effects.MOST_BYTES", 8 * 2 * 3 * HIDDEN * 4)
    with pytest.raises(InputError, match=r"has 9 tokens.*at most 8 tokens of this model"):
        examine(engine, weights, inputs)
    assert examine(engine, weights, {"hidden_states": inputs["hidden_states"][:8]}).top is None


BAD_LENSES = {
    "hidden size": (
        {"weight": np.zeros((VOCAB, 5))},
        ConfigError,
        "reads a stream of 5 numbers, and this model's has 16",
    ),
    "no matrix": ({"bias": np.zeros(VOCAB)}, InputError, "needs `weight`"),
    "unknown": ({"weight": np.zeros((9, HIDDEN)), "wieght": np.zeros(3)}, InputError, "'wieght'.*weight"),
    "bias": (
        {"weight": np.zeros((9, HIDDEN)), "bias": np.zeros(3)},
        InputError,
        r"bias has shape \(3,\), expected \(9,\)",
    ),
    "norm": (
        {"weight": np.zeros((9, HIDDEN)), "norm_weight": np.zeros(HIDDEN)},
        InputError,
        "without norm_kind",
    ),
    "kinds": (
        {**arrays(), "norm_kind": np.array(["rms_norm"] * 2)},
        InputError,
        r"norm_kind has shape \(2,\)",
    ),
    "scales": ({**arrays(), "scale": np.ones(3)}, InputError, r"scale has shape \(3,\), expected one value"),
    "no rows": ({"weight": np.zeros((0, HIDDEN))}, InputError, "needs `weight`"),
    "kind": ({**arrays(), "norm_kind": np.array("layernorm")}, InputError, "'layernorm' is not known"),
    "eps": (
        {"weight": np.zeros((9, HIDDEN)), "norm_kind": np.array("rms_norm")},
        InputError,
        "without norm_eps",
    ),
    "nan": ({"weight": np.full((9, HIDDEN), np.nan)}, InputError, "NaN or infinity"),
}


@pytest.mark.parametrize("what", BAD_LENSES)
def test_lenses_that_do_not_fit_are_refused(engines, what):
    values, error, message = BAD_LENSES[what]
    with pytest.raises(error, match=message):
        Questions(lens_of_arrays("x.npz", values)).check(config_of(TABLE["fc bias only"]))


def test_nan_in_an_unembedding_that_nobody_has_read_is_refused(engines):
    engine, weights, inputs = engines[False]
    values = arrays()
    lens = lens_of_arrays("x.npz", values)
    values["weight"][5, 2] = np.nan
    with pytest.raises(CheckpointError, match=r"the unembedding of x\.npz holds NaN or infinity"):
        examine(engine, weights, inputs, questions=Questions(lens))


def test_tokens_outside_the_vocabulary_are_refused():
    config, lens = config_of(TABLE["fc bias only"]), lens_of_arrays("x.npz", arrays())
    with pytest.raises(
        InputError, match=r"token id 37 is outside the vocabulary of x\.npz; expected 0 to 36"
    ):
        Questions(lens, (0, VOCAB)).check(config)
    with pytest.raises(ConfigError, match=r"nothing says what their directions are"):
        Questions(None, (1,)).check(config)
    with pytest.raises(ConfigError, match="directions are for the pooled vector"):
        Questions(directions=np.zeros((1, HIDDEN))).check(config)
    with pytest.raises(ConfigError, match="top_k=0"):
        Questions(lens, top=0).check(config)
