"""Taps: what they are called, what they hold, and that a build with them computes what a build without does."""

import json
from collections import OrderedDict

import numpy as np
import pytest
from sublayer_formulas import DTYPES, layer_norm, set_random

import trtllm_ext as tx
from trtllm_ext import backend
from trtllm_ext.builder import Engine, EngineConfig
from trtllm_ext.checkpoint import (
    PLACEMENTS,
    FeedForwardContract,
    NormContract,
    ResidualContract,
    stack_config,
)
from trtllm_ext.errors import ConfigError, EngineError
from trtllm_ext.graph import functional
from trtllm_ext.layers import TAP_POINTS
from trtllm_ext.models import (
    encoder_config,
    model_from_config,
    sublayer_stack_config,
    write_random_checkpoint,
)

BUDGET_S = 8

HIDDEN, LAYERS, TOKENS = 32, 2, 7
# Longer than what a product sums at a time, so that the order of adding shows.
WIDE = 400
PLAIN = {}
GATED = {"gated": True, "hidden_act": "silu", "norm": "rms_norm", "bias": False}
POINTS = ("before", "contribution", "after")


def stack(form=PLAIN, **changes):
    fields = {"hidden_size": HIDDEN, "ffn_hidden_size": 80, "num_hidden_layers": LAYERS, **form, **changes}
    return sublayer_stack_config(**fields)


def model_of(config, seed=0):
    model = model_from_config(config)
    set_random(model, config.dtype, seed)
    return model


def tokens(dtype="float32"):
    x = np.random.default_rng(1).normal(size=(TOKENS, HIDDEN))
    return {"hidden_states": x.astype(DTYPES[dtype])}


def sentences():
    ids = np.random.default_rng(2).integers(0, 50, (2, 5)).astype(np.int32)
    mask = np.array([[1] * 5, [1] * 3 + [0] * 2], np.int32)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def run(model, inputs, **settings):
    """What an engine built with these settings computes, by output."""
    engine = tx.build(model, tx.BuildConfig(**settings)).engine
    with tx.Session.from_serialized_engine(engine) as session:
        return {name: value.copy() for name, value in session.run(inputs).items()}


def names(layers=LAYERS, sublayers=("mlp",)):
    return [
        f"transformer.layers.{i}.{which}.{point}"
        for i in range(layers)
        for which in sublayers
        for point in POINTS
    ]


# With taps and without


def compare(model, inputs, limit, **settings):
    plain, tapped = run(model, inputs, **settings), run(model, inputs, taps=["*"], **settings)
    assert len(tapped) > len(plain)
    for name, value in plain.items():
        if not limit:
            assert value.tobytes() == tapped[name].tobytes(), name
        wide = value.astype(np.float64)
        assert np.abs(tapped[name] - wide).max() <= limit * np.abs(wide).max(), name
    return tapped


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("form", [PLAIN, GATED], ids=["plain", "gated"])
@pytest.mark.parametrize(("deterministic", "limit"), [(True, 0), (False, 1e-6)], ids=["basic", "all"])
def test_a_tapped_stack_computes_the_same(form, placement, deterministic, limit):
    model = model_of(stack(form, placement=placement))
    compare(model, tokens(), limit, deterministic=deterministic)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("form", [PLAIN, GATED], ids=["plain", "gated"])
def test_a_tapped_stack_of_a_narrow_type_computes_the_same_bits(form, placement, dtype):
    model = model_of(stack(form, placement=placement, dtype=dtype))
    tapped = compare(model, tokens(dtype), 0, deterministic=True)
    assert {value.dtype for value in tapped.values()} == {np.dtype(DTYPES[dtype])}


@pytest.mark.parametrize(
    ("dtype", "deterministic", "limit"),
    [("float32", False, 1e-6), *((dtype, True, 0) for dtype in DTYPES)],
)
def test_a_tapped_encoder_computes_the_same(dtype, deterministic, limit):
    config = encoder_config(
        hidden_size=HIDDEN,
        ffn_hidden_size=80,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        vocab_size=50,
        max_position_embeddings=16,
        dtype=dtype,
    )
    tapped = compare(model_of(config), sentences(), limit, deterministic=deterministic)
    assert set(names(sublayers=("attention", "mlp"))) < set(tapped)


class Parts(tx.Module):
    """x + gelu((x W1 + b) / norm) W2 from single operations, each one noted: fusions find all that they look for."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(0)
        self.w1 = (rng.normal(size=(WIDE, 600)) / 17).astype(np.float32)
        self.w2 = (rng.normal(size=(600, WIDE)) / 24).astype(np.float32)
        self.b = rng.normal(size=(1, 600)).astype(np.float32)

    def note(self, name, value):
        self.register_network_output(name, value)
        return value

    def forward(self, x):
        weights = [functional.constant(each) for each in (self.w1, self.w2, self.b)]
        h = self.note("biased", self.note("product", functional.matmul(x, weights[0])) + weights[2])
        cubic = self.note("cubic", h + 0.044715 * self.note("cube", h * h * h))
        tanh = self.note("tanh", functional.tanh(self.note("scaled", cubic * 0.7978845608)))
        gelu = self.note("gelu", 0.5 * self.note("factor", (tanh + 1.0) * h))
        centred = self.note("centred", gelu - self.note("mean", functional.mean(gelu, -1, keepdim=True)))
        variance = self.note("variance", functional.mean(centred * centred, -1, keepdim=True))
        normed = self.note("normed", centred / self.note("deviation", functional.sqrt(variance + 1e-5)))
        affine = self.note("affine", self.note("gained", normed * weights[2]) + weights[2])
        return self.note("after", x + self.note("contribution", functional.matmul(affine, weights[1])))


class OfParts(tx.Module):
    """A model as `build` takes it, of parts and an input of whatever shape."""

    def __init__(self, rows=-1, parts=True):
        super().__init__()
        self.config = stack(hidden_size=WIDE)
        self.rows = rows
        if parts:
            self.parts = Parts()

    def prepare_inputs(self, max_num_tokens):
        rows = [[1, 8, max_num_tokens]] if self.rows == -1 else [self.rows]
        ranges = OrderedDict(rows=rows, hidden=[WIDE])
        return {"x": tx.Tensor("x", "float32", [self.rows, WIDE], ranges)}

    def forward(self, x):
        (self.parts(x) if hasattr(self, "parts") else x + x).mark_output("y")


@pytest.mark.parametrize("rows", [-1, TOKENS])
def test_a_tap_in_the_middle_of_anything_that_fuses(rows):
    """No number depends at the basic level on which tensors of a product, a GELU or a norm are outputs."""
    model, x = OfParts(rows), np.random.default_rng(3).normal(size=(TOKENS, WIDE)).astype(np.float32)
    plain = run(model, {"x": x}, deterministic=True)["y"]
    noted = list(run(model, {"x": x}, deterministic=True, taps=["*"]))[1:]
    assert len(noted) == 17
    for name in noted:
        tapped = run(model, {"x": x}, deterministic=True, taps=[name])
        assert list(tapped) == ["y", name]
        assert tapped["y"].tobytes() == plain.tobytes(), name


# What they hold


@pytest.mark.parametrize("placement", [name for name in PLACEMENTS if name != "post"])
def test_the_stream_is_its_beginning_and_all_contributions(placement):
    inputs = tokens()
    got = run(model_of(stack(GATED, placement=placement, scale=0.5)), inputs, taps=["*.contribution"])
    assert list(got) == ["hidden_states_out", *names()[1::3]]
    x, *rest = (value.astype(np.float64) for value in (inputs["hidden_states"], *got.values()))
    final, contributions = rest[0], rest[1:]
    np.testing.assert_allclose(x + sum(contributions), final, atol=1e-6 * np.abs(final).max())
    assert all(np.abs(each).max() > 1e-2 for each in contributions)


def test_each_add_of_a_stack_with_its_norm_behind():
    model = model_of(stack(placement="post"))
    weights = {name: parameter.raw_value.astype(np.float64) for name, parameter in model.named_parameters()}
    got = run(model, tokens(), taps=["*"])
    before, contribution, after = (
        [got[f"transformer.layers.{i}.mlp.{point}"].astype(np.float64) for i in range(LAYERS)]
        for point in POINTS
    )
    ends = [*before[1:], got["hidden_states_out"]]
    for i in range(LAYERS):
        np.testing.assert_allclose(before[i] + contribution[i], after[i], atol=1e-6 * np.abs(after[i]).max())
        norm = f"transformer.layers.{i}.post_layernorm"
        normed = layer_norm(after[i], weights[f"{norm}.weight"], weights[f"{norm}.bias"], 1e-5)
        np.testing.assert_allclose(ends[i], normed, atol=1e-6 * np.abs(normed).max())


def test_inputs_outputs_and_tensors_of_two_names():
    inputs = tokens()
    got = run(model_of(stack()), inputs, taps=["*.after", "*.before"])
    first, last = "transformer.layers.0.mlp", f"transformer.layers.{LAYERS - 1}.mlp"
    np.testing.assert_array_equal(got[f"{first}.before"], inputs["hidden_states"])
    np.testing.assert_array_equal(got[f"{last}.after"], got["hidden_states_out"])
    np.testing.assert_array_equal(got[f"{first}.after"], got[f"{last}.before"])


def test_a_wide_stream_is_tapped_in_its_own_type():
    norm = NormContract(kind="rms_norm", eps=1e-5, bias=False)
    residual = ResidualContract(
        placement="pre", norm=norm, post_norm=None, gate="channel", skip_scale=0.5, stream_dtype="float32"
    )
    feed_forward = FeedForwardContract(
        gated=False, activation="relu", fc_bias=True, proj_bias=False, residual=residual
    )
    config = stack_config(
        feed_forward, hidden_size=HIDDEN, ffn_hidden_size=80, num_hidden_layers=1, dtype="bfloat16"
    )
    got = compare(model_of(config), tokens(), 0, deterministic=True)
    before, contribution, after = (got[f"transformer.layers.0.mlp.{point}"] for point in POINTS)
    assert {value.dtype for value in got.values()} == {np.dtype(np.float32)}
    np.testing.assert_allclose(before * 0.5 + contribution, after, atol=1e-6)


# Names, files, refusals


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
    engine = tx.build(OfParts(), tx.BuildConfig(dry_run=True, taps=["parts.tanh"]))
    tap = engine.config.taps["parts.tanh"]
    assert (tap.point, tap.meaning) == (
        "tanh",
        "noted by the module under this name; what it means is its own affair",
    )


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
