"""`export_onnx`: a file of standard ONNX that other tools load, and that computes what the engine and the oracle do."""

import json
from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx
import pytest
from lowered_models import run_session
from polygraphy.backend.onnx import InferShapes, OnnxFromPath
from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
from sampling import thinned
from stack_forms import HIDDEN, TABLE, TOKENS, config_of

import trtllm_ext as tx
import trtllm_ext.embedded as trt
from trtllm_ext.builder import export_network, export_onnx
from trtllm_ext.builder.trace import trace
from trtllm_ext.checkpoint import load_whole
from trtllm_ext.errors import BuildError, ConfigError
from trtllm_ext.models import (
    encoder_config,
    model_from_checkpoint,
    model_from_config,
    write_random_checkpoint,
)
from trtllm_ext.oracle import evaluate
from trtllm_ext.parallel import Mapping

BUDGET_S = 8

pytestmark = pytest.mark.usefixtures("one_thread")

LIMITS = tx.BuildConfig(max_num_tokens=32, opt_num_tokens=8)
SENTENCES = tx.BuildConfig(max_batch_size=4, max_input_len=16)
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
# Of the largest value: float32 sums of another order; one rounding of a narrow type in each of a few layers.
TOLERANCE = {"float32": 2e-6, "float16": 4e-3, "bfloat16": 3e-2}
PLAIN = TABLE["tanh"]


def traced_of(path, config=LIMITS):
    return trace(model_from_checkpoint(path), config)


def difference(got, want):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    return np.abs(got - want).max() / np.abs(want).max()


def tokens(dtype, count=TOKENS):
    return np.random.default_rng(count).normal(size=(count, HIDDEN)).astype(DTYPES[dtype])


def ran(path, feeds):
    return run_session(SessionFromOnnx(str(path), providers=["cpu"])(), feeds)


@pytest.mark.parametrize("name", thinned(TABLE, every=2))
def test_every_form_is_standard_onnx_that_computes_what_the_oracle_says(name, tmp_path):
    config = config_of(TABLE[name], layers=1)
    write_random_checkpoint(tmp_path / "c", config)
    exported = export_onnx(tmp_path / "c", tmp_path / "m.onnx", LIMITS)
    model = onnx.load(str(exported.path))
    assert {entry.domain for entry in model.opset_import} == {""}
    feeds = {each.name: feed(each) for each in exported.inputs}
    network = traced_of(tmp_path / "c").network.trt_network
    want = evaluate(network, trt, feeds)
    got = ran(exported.path, feeds)
    assert list(got) == list(want)
    for output, value in want.items():
        assert difference(got[output], value) <= 20 * TOLERANCE["float32"], output


def feed(tensor):
    shape = tuple(TOKENS if length < 0 else length for length in tensor.shape)
    return np.random.default_rng(len(shape)).normal(size=shape).astype(DTYPES[tensor.dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_polygraphy_onnx_runtime_the_engine_and_the_oracle_agree(dtype, tmp_path):
    config = config_of(PLAIN, dtype)
    write_random_checkpoint(tmp_path / "c", config)
    exported = export_onnx(tmp_path / "c", tmp_path / "m.onnx", LIMITS)
    model = InferShapes(OnnxFromPath(str(exported.path)), allow_onnxruntime=False)()
    [source] = model.graph.input
    assert [dim.dim_param or dim.dim_value for dim in source.type.tensor_type.shape.dim] == [
        "num_tokens",
        HIDDEN,
    ]
    x = tokens(dtype)
    got = ran(exported.path, {"hidden_states": x})["hidden_states_out"]
    assert got.dtype == x.dtype
    traced = traced_of(tmp_path / "c")
    want = evaluate(traced.network.trt_network, trt, {"hidden_states": x})["hidden_states_out"]
    assert difference(got, want) <= TOLERANCE[dtype]
    with tx.Session.from_serialized_engine(
        tx.build(model_from_checkpoint(tmp_path / "c"), LIMITS).engine
    ) as session:
        engine = session.run({"hidden_states": x})["hidden_states_out"]
    assert difference(got, engine) <= TOLERANCE[dtype]
    if dtype != "bfloat16":  # numpy's own types are all that Polygraphy feeds
        with OnnxrtRunner(SessionFromOnnx(str(exported.path), providers=["cpu"])) as runner:
            np.testing.assert_array_equal(runner.infer({"hidden_states": x})["hidden_states_out"], got)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_encoder(dtype, tmp_path):
    config = encoder_config(
        hidden_size=32,
        ffn_hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        vocab_size=50,
        max_position_embeddings=32,
        dtype=dtype,
    )
    write_random_checkpoint(tmp_path / "c", config)
    exported = export_onnx(tmp_path / "c", tmp_path / "m.onnx", SENTENCES)
    mask = np.array([[1] * 9, [1] * 4 + [0] * 5], np.int32)
    ids = np.random.default_rng(0).integers(0, 50, mask.shape, np.int32)
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}
    got = ran(exported.path, feeds)
    for output, value in evaluate(
        traced_of(tmp_path / "c", SENTENCES).network.trt_network, trt, feeds
    ).items():
        assert difference(got[output], value) <= 2 * TOLERANCE[dtype], output


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "c"
    write_random_checkpoint(path, config_of(PLAIN))
    return path


def test_names_opset_metadata_and_taps(plain, tmp_path):
    exported = export_onnx(plain, tmp_path / "m.onnx", LIMITS.updated(taps=("*.contribution",)))
    model = onnx.load(str(exported.path))
    assert "transformer.layers.1.mlp.contribution" in [each.name for each in model.graph.output]
    assert any("transformer/layers/1/mlp" in node.name for node in model.graph.node)
    assert (model.producer_name, model.producer_version) == ("trtllm_ext", tx.__version__)
    props = {each.key: each.value for each in model.metadata_props}
    assert props["trtllm_ext.architecture"] == "SublayerStack"
    assert json.loads(props["trtllm_ext.contract"])["feed_forward"]["gated"] is PLAIN.gated
    assert json.loads(props["trtllm_ext.profiles"])["hidden_states"][0] == [
        [1, HIDDEN],
        [8, HIDDEN],
        [32, HIDDEN],
    ]
    assert exported.opset == model.opset_import[0].version <= 20


def test_weights_beside_the_model_are_the_same_weights(plain, tmp_path):
    inside = export_onnx(plain, tmp_path / "in.onnx", LIMITS)
    beside = export_onnx(plain, tmp_path / "out.onnx", LIMITS, external_data=True)
    assert inside.data_file is None and beside.data_file == tmp_path / "out.onnx.data"
    assert beside.model_bytes < inside.model_bytes
    feeds = {"hidden_states": tokens("float32")}
    one, other = ran(inside.path, feeds), ran(beside.path, feeds)
    np.testing.assert_array_equal(one["hidden_states_out"], other["hidden_states_out"])
    # What an earlier export left is not left beside a model that does not read it.
    export_onnx(plain, tmp_path / "out.onnx", LIMITS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.onnx", "out.onnx"]


def test_weights_above_what_a_file_takes_go_beside_it(plain, tmp_path, monkeypatch):
    monkeypatch.setattr("trtllm_ext.builder.onnx_export.MOST_INSIDE_BYTES", 1000)
    assert export_onnx(plain, tmp_path / "m.onnx", LIMITS).data_file is not None
    with pytest.raises(BuildError, match="do not fit into one ONNX file"):
        export_onnx(plain, tmp_path / "m.onnx", LIMITS, external_data=False)


def test_a_checkpoint_of_ranks_is_exported_whole(tmp_path):
    config = replace(config_of(PLAIN), mapping=Mapping(world_size=2, tp_size=2))
    write_random_checkpoint(tmp_path / "c", config)
    exported = export_onnx(tmp_path / "c", tmp_path / "m.onnx", LIMITS)
    whole = load_whole(tmp_path / "c")
    model = model_from_config(whole.config)
    model.load(whole.weights)
    feeds = {"hidden_states": tokens("float32")}
    want = evaluate(trace(model, LIMITS).network.trt_network, trt, feeds)
    assert difference(ran(exported.path, feeds)["hidden_states_out"], want["hidden_states_out"]) <= 2e-5


def test_limits_and_taps_come_from_an_engine(plain, tmp_path):
    config = LIMITS.updated(taps=("*.after",), max_num_tokens=16)
    tx.build_engine_dir(plain, tmp_path / "e", config)
    exported = export_onnx(plain, tmp_path / "m.onnx", engine_dir=tmp_path / "e")
    assert [each.name for each in exported.outputs] == [
        each.name for each in tx.runtime.EngineDir.read(str(tmp_path / "e")).envelope.outputs
    ]
    assert exported.inputs[0].profiles[0][2] == (16, HIDDEN)
    write_random_checkpoint(tmp_path / "other", config_of(TABLE["sigmoid"]))
    with pytest.raises(
        ConfigError,
        match=r"another model than .*: config contract\.feed_forward\.activation is",
    ):
        export_onnx(tmp_path / "other", tmp_path / "m.onnx", engine_dir=tmp_path / "e")
    with pytest.raises(ConfigError, match="give one of them"):
        export_onnx(plain, tmp_path / "m.onnx", LIMITS, engine_dir=tmp_path / "e")


def test_what_cannot_be_written_leaves_nothing(plain, tmp_path):
    with pytest.raises(BuildError, match="there is no directory"):
        export_onnx(plain, tmp_path / "none" / "m.onnx", LIMITS)
    with pytest.raises(BuildError, match="it is a directory"):
        export_onnx(plain, tmp_path, LIMITS)
    network = tx.Builder().create_network()
    with tx.net_guard(network):
        x = tx.Tensor(name="x", dtype="float32", shape=[2, 4])
        layer = network.trt_network.add_dist_collective(
            x.trt_tensor, trt.CollectiveOperation.ALL_REDUCE, trt.ReduceOperation.SUM, -1, [0, 1]
        )
        layer.num_ranks = 2
        tx.functional._create_tensor(layer.get_output(0), layer).mark_output("y")
    with pytest.raises(BuildError, match="is a collective of several ranks, which ONNX does not have"):
        export_network(network, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
