"""`verify_engine`: right engines pass, and planted faults are found where they were planted."""

import json
from dataclasses import replace

import numpy as np
import pytest
from encoder_formulas import sentences, small_config
from stack_forms import TABLE, checkpoint, config_of
from verified_models import ALL, engine_of, stack, with_weight

import trtllm_ext as tx
from trtllm_ext import backend
from trtllm_ext.checkpoint import load_checkpoint
from trtllm_ext.errors import ConfigError, InputError
from trtllm_ext.lowering import activation as activation_lowering
from trtllm_ext.models import model_from_checkpoint
from trtllm_ext.oracle import KINDS
from trtllm_ext.parallel import Mapping
from trtllm_ext.plugin import formulas
from trtllm_ext.verify import bisection, own_weights, verify_engine

BUDGET_S = 6

pytestmark = pytest.mark.usefixtures("one_thread")

DTYPES = ("float32", "float16", "bfloat16")
ENCODER_LIMITS = {"max_batch_size": 4, "max_input_len": 12}
PROJ = "transformer.layers.1.mlp.proj.weight"
SECOND = "transformer.layers.1.mlp"
CONTRIBUTION = f"{SECOND}.contribution"


@pytest.mark.parametrize(("dtype", "kind"), [*zip(DTYPES, ("mean", "cls", "pooler"), strict=True)])
def test_an_encoder_without_its_checkpoint(tmp_path, dtype, kind):
    checkpoint(tmp_path / "c", small_config(dtype, kind))
    model = model_from_checkpoint(tmp_path / "c")
    engine = tx.build(model, tx.BuildConfig(**ENCODER_LIMITS, taps=ALL))
    engine.save(tmp_path / "e")
    report = verify_engine(tmp_path / "e", inputs=sentences())
    assert report.is_right, report.verdict
    assert report.rows[-1].tensor == "sentence_embedding"
    assert len(report.rows) == 14
    assert "a wrong weight is not seen" in report.notes[0]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "c"
    return path, stack(path)


def test_an_engine_without_taps(small):
    path, _ = small
    report = verify_engine(engine_of(path), path)
    assert report.is_right
    assert [row.tensor for row in report.rows] == ["hidden_states_out"]
    assert any("--bisect" in note for note in report.notes)
    json.loads(report.to_json())


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_weight_changed_after_the_build(tmp_path, dtype):
    found = stack(tmp_path / "c", dtype)
    report = verify_engine(engine_of(found, ALL), with_weight(found, PROJ, 1.5))
    assert (report.is_right, report.sublayer) == (False, SECOND)
    assert report.first_wrong.tensor == CONTRIBUTION
    # It is this sublayer alone: those behind it do what they should with what they are given.
    assert [row.tensor for row in report.rows if not row.is_right] == [CONTRIBUTION]
    assert report.weights_that_differ == (PROJ,)
    assert "not built from this checkpoint" in report.verdict


def test_bisect_tells_that_it_is_another_checkpoints(small):
    path, found = small
    report = verify_engine(engine_of(path), with_weight(found, PROJ, 1.5), bisect=True)
    assert report.first_wrong.tensor == "hidden_states_out"
    assert report.bisection.untapped_is_right
    assert not report.bisection.same_bits
    assert report.bisection.changed_by > 1e-3
    assert "right, with taps and without: the library is not at fault" in report.verdict
    assert report.verdict.count("not built from") == 1
    assert not any("no taps" in note for note in report.notes)


def test_bisect_of_a_right_engine(small):
    path, _ = small
    report = verify_engine(engine_of(path), path, bisect=True)
    assert report.is_right
    assert report.bisection.same_bits
    assert len(report.bisection.rows) == 10
    assert "Tapping changed nothing" in report.verdict


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("taps", [(), ALL], ids=["untapped", "tapped"])
def test_a_wrong_network(tmp_path, monkeypatch, dtype, taps):
    """gelu's other form in the second layer only: far within a narrow type's roundings."""
    stack(tmp_path / "c", dtype)
    real = formulas.activate

    def activate(x, name):
        place = x.network.place()
        return real(x, "gelu_tanh" if "layers/1/" in place else name)

    monkeypatch.setattr(formulas, "activate", activate)
    report = verify_engine(engine_of(tmp_path / "c", taps), tmp_path / "c")
    assert not report.is_right
    assert (report.network.tensor, report.network.sublayer) == (CONTRIBUTION, SECOND)
    assert "The network is wrong at transformer.layers.1.mlp" in report.verdict
    assert report.weights_that_differ == ()
    assert report.sublayer == SECOND
    if taps:
        row = next(row for row in report.rows if row.tensor == CONTRIBUTION)
        assert row.oracle_alone <= row.tolerance
    assert "Its activation is GELU_TANH (layer transformer/layers/1/mlp/" in report.network.hint
    assert "the contract says gelu_erf (GELU_ERF or ERF)" in report.verdict


def test_an_engine_of_older_code(small, monkeypatch):
    """The engine is of a wrong network, the code of today is right."""
    path, _ = small
    real = formulas.activate

    def activate(x, name):
        return real(x, "gelu_tanh" if "layers/1/" in x.network.place() else name)

    monkeypatch.setattr(formulas, "activate", activate)
    engine = engine_of(path)
    monkeypatch.setattr(formulas, "activate", real)
    report = verify_engine(engine, path, bisect=True)
    assert (report.is_right, report.network, report.weights_that_differ) == (False, None, ())
    assert "not built from this checkpoint by this code" in report.verdict
    assert "It holds the same weights, so it was built by other code" in report.verdict
    assert report.bisection.differs_at.startswith("SublayerStack/transformer/layers/1/mlp/")
    assert report.bisection.differs_at.endswith("/GELU_TANH_0")
    assert "computes in another way is transformer/layers/1/mlp/" in report.verdict
    plain = verify_engine(engine, path)
    assert "built by other code, or the library computes it wrongly. --bisect tells which." in plain.verdict


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_fault_of_the_library(tmp_path, monkeypatch, dtype):
    """One layer is lowered wrongly: --bisect names it, and it alone, whatever the type."""
    path = tmp_path / "c"
    stack(path, dtype)
    right, wrong = activation_lowering._gelu_erf, activation_lowering._PARAMETRIC["SOFTPLUS"]

    def lowered(layer, value):
        if "layers/1/" not in layer.api.name:
            return right(layer, value)
        layer.api.alpha = layer.api.beta = 1.0
        return wrong(layer, value)

    monkeypatch.setitem(activation_lowering._PARAMETRIC, "GELU_ERF", lowered)
    report = verify_engine(engine_of(path), path, bisect=True)
    assert not report.is_right
    assert (report.network, report.sublayer) == (None, SECOND)
    assert "layers/1/mlp" in report.layer
    assert "gelu" in report.layer
    assert [row.layer for row in report.bisection.layers if not row.is_right] == [report.layer]
    assert "the embedded engine is at fault" in report.verdict


def test_what_taps_keep_from_going_wrong(small, monkeypatch):
    """A fault in an engine without taps only, as of a library that joins layers across sublayers."""
    path, found = small
    broken = engine_of(with_weight(found, PROJ, 1.5))

    def build(model, config):
        return broken if not config.taps else tx.build(model, config)

    monkeypatch.setattr(bisection, "build", build)
    report = verify_engine(broken, path, bisect=True)
    assert report.bisection.untapped_is_right is False
    assert "taps keep it from that" in report.verdict


def test_nan_in_the_middle(small):
    path, found = small
    engine = engine_of(with_weight(found, PROJ, np.nan), ALL)
    report = verify_engine(engine, path)
    assert report.first_wrong.tensor == CONTRIBUTION
    assert "8 NaN of 128 elements, the first at [0, 3]" in report.first_wrong.not_finite
    assert "8 NaN of 128 elements" in report.verdict
    # The same NaN in references and engine is nobody's fault, but told.
    own = verify_engine(engine)
    assert own.is_right
    assert any("not finite" in note and CONTRIBUTION in note for note in own.notes)


def test_overflow_of_float16(tmp_path):
    found = stack(tmp_path / "c", "float16", placement="none")
    found = with_weight(found, PROJ, 0, slice(None))
    for index in (0, 1):
        found = with_weight(found, f"transformer.layers.{index}.mlp.proj.bias", 6e4, 2)
    engine = engine_of(found, ALL)
    report = verify_engine(engine)
    assert "infinite" in report.first_wrong.not_finite
    assert report.first_wrong.tensor == f"{SECOND}.after"
    assert "1.2e+05" in report.first_wrong.not_finite


def test_tokens_that_stand_between_experts(tmp_path):
    """Two experts' router rows are the same but for a rounding: no reference can tell where a token goes."""
    form = replace(TABLE["mixture_renormalized"])
    checkpoint(tmp_path / "c", config_of(form, "float16"))
    found = load_checkpoint(tmp_path / "c")
    name = "transformer.layers.0.mlp.router.weight"
    router = np.array(found.weights[name])
    router[1:] = router[0]
    found = replace(found, weights={**found.weights, name: router})
    report = verify_engine(engine_of(found, ALL), found)
    row = next(row for row in report.rows if row.tensor == "transformer.layers.0.mlp.contribution")
    assert row.rows_left_out == 8
    assert any("between two experts" in note for note in report.notes)


def test_refusals(small, tmp_path, monkeypatch):
    path, _ = small
    engine = engine_of(path)
    stack(tmp_path / "other", hidden_act="relu")
    with pytest.raises(
        ConfigError,
        match=r"another model than the engine was built from: config contract\.feed_forward",
    ):
        verify_engine(engine, tmp_path / "other")
    with pytest.raises(InputError, match="hidden_states"):
        verify_engine(engine, path, inputs={"x": np.zeros((2, 16), np.float32)})
    choice = backend.choice()
    monkeypatch.setattr(own_weights.backend, "choice", lambda: replace(choice, engine="tensorrt"))
    with pytest.raises(ConfigError, match=r"does not give its weights back.*--checkpoint_dir"):
        own_weights.own_checkpoint(own_weights.Subject("e", engine.config, engine.inputs, None, engine))


def test_an_engine_of_several_ranks_is_not_looked_into(tmp_path):
    config = replace(stack(tmp_path / "one").config, mapping=Mapping(world_size=2, tp_size=2))
    checkpoint(tmp_path / "two", config)
    tx.build_engine_dir(tmp_path / "two", tmp_path / "e", tx.BuildConfig(max_num_tokens=8))
    with pytest.raises(ConfigError, match="an engine of 2 ranks"):
        verify_engine(tmp_path / "e")


def test_layers_that_the_oracle_does_not_know(small, monkeypatch):
    """As plugins without a record are: the oracle goes on behind them from what the engine gives."""
    path, found = small
    monkeypatch.delitem(KINDS, "ACTIVATION")
    report = verify_engine(engine_of(path, ALL), path)
    assert report.is_right, report.verdict
    by_name = {row.tensor: row for row in report.rows}
    assert by_name[CONTRIBUTION].oracle is None
    assert by_name[CONTRIBUTION].formulas < 1e-5
    assert by_name[f"{SECOND}.after"].oracle < 1e-5
    assert (
        sum("is not known to the oracle; it goes on from the engine's own" in note for note in report.notes)
        == 3
    )
    wrong = verify_engine(engine_of(path, ALL), with_weight(found, PROJ, 1.5))
    assert wrong.first_wrong.tensor == CONTRIBUTION
