"""Taps: what they are called and mean, in files too, what is refused, and the fusion level beside them."""

import json

import numpy as np
import pytest
from sublayer_formulas import set_random
from tapped import HIDDEN, TOKENS, WIDE, OfParts, model_of, names, run, stack, tokens

import trtllm_ext as tx
from trtllm_ext import backend
from trtllm_ext.builder import Engine, EngineConfig
from trtllm_ext.checkpoint import FORMS, stack_config
from trtllm_ext.errors import ConfigError, EngineError
from trtllm_ext.layers import (
    TAP_POINTS,
    FeedForward,
    HyperConnections,
    ParallelSublayers,
    Residual,
    expand_streams,
)
from trtllm_ext.models import write_random_checkpoint

BUDGET_S = 3


@pytest.mark.parametrize(
    ("asked", "taps"),
    [
        ({"taps": ["*"]}, names()),
        ({"enable_debug_output": True}, names()),
        ({"taps": ("*.1.mlp.after", "transformer.layers.0.mlp.[ab]*")}, [names()[i] for i in (0, 2, 5)]),
        ({"taps": ["*.contribution", names()[1]]}, names()[1::3]),
        ({}, []),
    ],
)
def test_names_and_meanings(asked, taps):
    engine = tx.build(model_of(stack()), tx.BuildConfig(dry_run=True, **asked))
    assert [tensor.name for tensor in engine.outputs] == ["hidden_states_out", *taps]
    assert engine.config.to_dict()["taps"] == {
        name: {"point": point, "meaning": TAP_POINTS[point]}
        for name in taps
        for point in [name.rpartition(".")[2]]
    }


def test_what_a_module_of_ones_own_notes():
    """Also under a name that Residual uses for something else."""
    engine = tx.build(OfParts(), tx.BuildConfig(dry_run=True, taps=["parts.tanh", "parts.after"]))
    assert engine.config.taps["parts.after"].meaning == engine.config.taps["parts.tanh"].meaning
    tap = engine.config.taps["parts.tanh"]
    assert (tap.point, tap.meaning) == (
        "tanh",
        "noted by the module under this name; what it means is its own affair",
    )


def meanings(block):
    class Model(OfParts):
        def __init__(self):
            super().__init__(parts=False)
            self.block = block

        def forward(self, x):
            streams = expand_streams(x, 2) if block.connections is not None else x
            self.block(streams).mark_output("y")

    model = Model()
    set_random(model, "float32")
    engine = tx.build(model, tx.BuildConfig(dry_run=True, taps=["*"]))
    return {name.removeprefix("block."): tap.meaning for name, tap in engine.config.taps.items()}


def test_a_block_that_does_something_else_says_so():
    ffn = FeedForward(WIDE, 8)
    told = meanings(Residual(ffn, connections=HyperConnections(WIDE, 2)))
    assert "the residual streams before hyper-connections mix" in told["sublayer.before"]
    assert "each mixed stream adds it times its factor" in told["sublayer.contribution"]
    told = meanings(Residual(ffn, skip_scale=0.5))
    assert told["sublayer.before"] == f"{TAP_POINTS['before']} to 0.5 times it"
    assert told["sublayer.contribution"] == TAP_POINTS["contribution"]
    told = meanings(Residual(ParallelSublayers(ffn, FeedForward(WIDE, 8)), clamp=True))
    assert set(told) == {
        "sublayer.attention.contribution",
        *(f"sublayer.feed_forward.{point}" for point in TAP_POINTS),
    }
    assert "in one sum with that of the sublayer at its side" in told["sublayer.feed_forward.contribution"]
    assert told["sublayer.attention.contribution"] == told["sublayer.feed_forward.contribution"]
    assert "contributions of attention and feed-forward" in told["sublayer.feed_forward.after"]


@pytest.mark.parametrize(("dtype", "said"), [("float16", True), ("float32", False)])
def test_a_clamp_is_told_where_it_acts(dtype, said):
    form = FORMS["t5_clamped"]
    config = stack_config(form, hidden_size=8, ffn_hidden_size=8, num_hidden_layers=1, dtype=dtype)
    engine = tx.build(model_of(config), tx.BuildConfig(dry_run=True, taps=["*.after"]))
    (tap,) = engine.config.taps.values()
    assert ("brought back into float16's range" in tap.meaning) == said


def test_a_sublayer_in_two_blocks_is_tapped_twice():
    class Twice(OfParts):
        def __init__(self):
            super().__init__(parts=False)
            shared = FeedForward(WIDE, 8)
            self.first, self.second = Residual(shared), Residual(shared, scale=0.5)

        def forward(self, x):
            self.second(self.first(x)).mark_output("y")

    model, x = Twice(), np.random.default_rng(0).normal(size=(TOKENS, WIDE)).astype(np.float32)
    set_random(model, "float32")
    for _ in range(2):  # what an earlier network's build noted does not count
        got = run(model, {"x": x}, taps=["*.contribution*"])
        points = ["contribution", "contribution_1"]
        assert list(got) == ["y", *(f"first.sublayer.{point}" for point in points)]
    first, second = (got[f"first.sublayer.{point}"] for point in points)
    np.testing.assert_allclose(x + first + second, got["y"], rtol=1e-6, atol=1e-6)
    assert np.abs(first - second).max() > 1e-3
    config = tx.build(model, tx.BuildConfig(dry_run=True, taps=["*"])).config
    tap = config.taps["first.sublayer.contribution_1"]
    assert (tap.point, tap.meaning) == ("contribution", TAP_POINTS["contribution"])
    assert len(config.taps) == 6


def test_a_directory_tells_what_its_taps_mean(tmp_path):
    write_random_checkpoint(tmp_path / "checkpoint", stack())
    settings = tx.BuildConfig(taps=["*.1.mlp.contribution"], deterministic=True)
    tx.build_engine_dir(tmp_path / "checkpoint", tmp_path / "engine", settings)
    config = json.loads((tmp_path / "engine/config.json").read_text())
    meaning = {"point": "contribution", "meaning": TAP_POINTS["contribution"]}
    assert config["taps"] == {"transformer.layers.1.mlp.contribution": meaning}
    assert config["fusion_level"] == "basic"
    assert config["build_config"]["taps"] == ["*.1.mlp.contribution"]
    engine = Engine.from_dir(tmp_path / "engine")
    assert engine.config.to_dict() == config
    engine.save(tmp_path / "again")
    for path in (tmp_path / "engine", tmp_path / "again"):
        with tx.Session.from_engine_dir(path) as session:
            assert [info.name for info in session.outputs] == ["hidden_states_out", *config["taps"]]
            assert session.run(tokens())["transformer.layers.1.mlp.contribution"].shape == (TOKENS, HIDDEN)


def test_a_model_can_be_built_again_with_other_taps():
    model = model_of(stack())
    tx.build(model, tx.BuildConfig(taps=["*"]))
    assert list(run(model, tokens(), taps=["*.1.mlp.after"])) == ["hidden_states_out", names()[-1]]


@pytest.mark.parametrize(
    ("model", "taps", "message"),
    [
        (None, ["*.contributoin"], r"none of the 6 tensors .* Did you mean \*\.contribution"),
        (None, ["*", "zebra"], r"'zebra' .*\. Known: \*\.after, \*\.before, \*\.contribution\. `trtllm-ext"),
        (None, ["transformer.layers.2.mlp.after"], r"Did you mean transformer\.layers\.\d\.mlp\.after or "),
        (None, ["*.After"], r"'\*\.After' matches none .* `trtllm-ext build --dry_run --taps '\*'` lists"),
        (OfParts(parts=False), ["*"], r"'\*' is asked for, but no module of the OfParts notes any tensor"),
    ],
)
def test_a_name_that_matches_nothing(model, taps, message):
    with pytest.raises(ConfigError, match=message):
        tx.build(model or model_of(stack()), tx.BuildConfig(taps=taps))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"taps": "*.after"}, r"taps='\*\.after' is a text, expected a list"),
        ({"taps": [1]}, "taps: 1 is no name; give names of tensors such as"),
        ({"taps": [""]}, "taps: '' is no name"),
        ({"deterministic": 1}, "deterministic=1 is a whole number, expected true or false"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        tx.BuildConfig.from_dict(settings)


@pytest.mark.parametrize("taps", [[], {"a": {"point": "after"}}, {"a": "after"}])
def test_a_damaged_list_of_taps(taps):
    values = {**tx.build(model_of(stack()), tx.BuildConfig(dry_run=True)).config.to_dict(), "taps": taps}
    with pytest.raises(EngineError, match="as taps, where each name has a point and a meaning"):
        EngineConfig.from_dict(json.loads(json.dumps(values)))


# The level


@pytest.mark.parametrize(("deterministic", "level"), [(True, "basic"), (False, "all")])
def test_the_level_is_told(deterministic, level):
    engine = tx.build(model_of(stack()), tx.BuildConfig(deterministic=deterministic))
    assert engine.config.to_dict()["fusion_level"] == level
    assert engine.config.build_config.deterministic is deterministic


def test_tensorrt_has_nothing_like_it(monkeypatch):
    builder, choice = tx.Builder(), backend.choice()
    there = type(choice)("tensorrt", choice.graph, ())
    monkeypatch.setattr(backend, "choice", lambda: there)
    with pytest.raises(
        ConfigError, match="deterministic=True is refused: TensorRT chooses kernels by timing them"
    ):
        builder.create_builder_config("float32", deterministic=True)
    assert builder.create_builder_config("float32").fusion_level is None
