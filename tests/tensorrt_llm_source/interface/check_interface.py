"""What this package makes of TensorRT-LLM's interface: its graph API, and what trtllm-build does with a class."""

import json
import os
import sys
from collections import OrderedDict
from importlib.machinery import SourceFileLoader
from pathlib import Path

import numpy as np
import pytest
import tensorrt_llm
from references import check_surgery, plain, tapped
from small_tensorrt_llm import MLP, MODEL_MAP, FusedGatedMLP, GatedMLP, PretrainedConfig, RowLinear

import trtllm_ext as tx
from trtllm_ext.builder import Builder, taps
from trtllm_ext.errors import BuildError, ConfigError
from trtllm_ext.graph import Module, constant, functional, net_guard
from trtllm_ext.layers import FeedForward, GatedFeedForward
from trtllm_ext.runtime import EngineDir
from trtllm_ext.tensorrt_llm import replace_mlps

ANSWERS = Path(os.environ["TENSORRT_LLM_ANSWERS"])
FORMS = sorted(each.name for each in ANSWERS.iterdir())
STACK = next(name for name in FORMS if name.endswith("gpt2-float32"))
# Of releases 0.16 to 1.2.
PREPARE_INPUTS = {
    "max_batch_size": 4,
    "max_input_len": 64,
    "max_seq_len": 64,
    "use_cache": True,
    "max_beam_width": 1,
    "max_num_tokens": 32,
    "opt_num_tokens": 4,
    "prompt_embedding_table_size": 0,
    "max_draft_len": 0,
    "speculative_decoding_draft_tokens_external": False,
    "gather_context_logits": False,
    "gather_generation_logits": False,
    "lora_target_modules": None,
}


def known(name):
    with np.load(ANSWERS / name / "answer.npz") as stored:
        arrays = dict(stored)
    return tuple(
        {key[len(kind) :]: value for key, value in arrays.items() if key.startswith(kind)}
        for kind in ("in.", "out.")
    )


def same(outputs, expected, tolerance):
    assert outputs.keys() == expected.keys()
    for key, value in expected.items():
        error = np.abs(plain(outputs[key]) - value).max()
        assert error <= tolerance * np.abs(value).max(), key


def test_the_graph_is_tensorrt_llms():
    from trtllm_ext.graph.functional import relu

    assert Module is tensorrt_llm.Module and constant is functional.constant
    assert functional.relu is tensorrt_llm.functional.relu is relu
    assert functional.flatten is not tensorrt_llm.functional.flatten


@pytest.mark.parametrize("name", FORMS)
def test_numbers_and_taps_of_all_that_it_does_otherwise(name):
    inputs, expected = known(name)
    dtype = np.float32 if name.endswith("float32") else _bfloat16()
    inputs = {
        key: value if value.dtype.kind in "iu" else value.astype(dtype) for key, value in inputs.items()
    }
    engine = tapped(ANSWERS / name)
    with tx.Session.from_serialized_engine(engine.engine) as session:
        same(session.run(inputs), expected, 1e-5 if name.endswith("float32") else 1.6e-2)
    # Told by our layers, where TensorRT-LLM's Module keeps a name alone.
    assert not [name for name, tap in engine.config.taps.items() if tap.meaning == taps._UNKNOWN_POINT]


@pytest.mark.parametrize("name", FORMS)
def test_a_run_changes_what_it_may(name):
    check_surgery(ANSWERS / name, *known(name), 1e-5 if name.endswith("float32") else 1.6e-2)


def test_a_model_that_is_built_again_notes_the_same():
    model = tx.models.model_from_checkpoint(ANSWERS / STACK)
    once, again = (tx.build(model, tx.BuildConfig(max_num_tokens=32, taps=["*"])) for _ in range(2))
    assert once.config.taps == again.config.taps and once.config.taps


def test_functions_that_take_more_than_its_own():
    x = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
    ranges = OrderedDict([("a", [[1, 3, 8]]), ("two", [2]), ("b", [[1, 4, 8]])])
    builder = Builder()
    network = builder.create_network()
    with net_guard(network):
        given = tensorrt_llm.Tensor(name="x", dtype="float32", shape=[-1, 2, -1], dim_range=ranges)
        rows = functional.view(functional.shape(given, 0), [1])
        outputs = {
            "front": functional.flatten(given, 0, 1),
            "back": functional.flatten(given, 1, 2),
            "whole": functional.flatten(given),
            "counted": functional.cast(functional.arange(1, rows, "int32"), "float32"),
            "wide": functional.expand(functional.constant(np.ones((1, 3), np.float32)), (2, 3)),
        }
        for name, each in outputs.items():
            each.mark_output(name, "float32")
    engine = builder.build_engine(network, builder.create_builder_config(precision="float32"))
    with tx.Session.from_serialized_engine(engine) as session:
        found = session.run({"x": x})
    expected = {"front": x.reshape(6, 4), "back": x.reshape(3, 8), "whole": x.reshape(-1)}
    expected |= {"counted": np.array([1, 2], np.float32), "wide": np.ones((2, 3), np.float32)}
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def _bfloat16():
    import ml_dtypes

    return ml_dtypes.bfloat16


@pytest.fixture
def built_model(tmp_path):
    """The steps of trtllm-build, as shared facts on it have them, up to the engine directory."""
    from trtllm_ext import trtllm_build

    MODEL_MAP.clear()
    with pytest.raises(KeyError, match="SublayerStack"):
        PretrainedConfig.from_checkpoint(ANSWERS / STACK)
    for name in [name for name in sys.modules if name.startswith("trtllm_ext.tensorrt_llm")]:
        del sys.modules[name]
    models = SourceFileLoader("models", trtllm_build.__file__).load_module()
    config = PretrainedConfig.from_checkpoint(ANSWERS / STACK)
    return models.SublayerStack.from_checkpoint(ANSWERS / STACK, config=config)


def test_trtllm_build_has_what_it_needs_of_a_class(built_model, tmp_path):
    assert set(MODEL_MAP) == {"SublayerStack", "Encoder"}
    model = built_model
    assert model.is_post_initialised and model.config.quantization.quant_algo is None
    stored = json.loads((ANSWERS / STACK / "config.json").read_text())
    assert {name for name, _ in model.named_parameters()} == set(
        tx.checkpoint.load_checkpoint(ANSWERS / STACK).weights
    )
    builder = Builder()
    network = builder.create_network()
    with net_guard(network):
        network.set_named_parameters(model.named_parameters())
        model(**model.prepare_inputs(**PREPARE_INPUTS))
        outputs = list(model.named_network_outputs())
    assert {name for name, _ in outputs} == {
        f"transformer.layers.{layer}.mlp.{point}"
        for layer in range(2)
        for point in ("before", "contribution", "after")
    }
    assert not any(value.trt_tensor.is_network_input for _, value in outputs)
    engine = builder.build_engine(network, builder.create_builder_config(precision="float32"))
    settings = {name: PREPARE_INPUTS[name] for name in ("max_batch_size", "max_num_tokens")}
    settings |= {"kv_cache_type": "PAGED", "auto_parallel_config": {"world_size": 1}}
    config = {"version": "0.16.0", "pretrained_config": model.config.to_dict(), "build_config": settings}
    assert config["pretrained_config"] == {key: stored[key] for key in config["pretrained_config"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "rank0.engine").write_bytes(memoryview(engine))
    inputs, expected = known(STACK)
    with tx.Session.from_engine_dir(tmp_path) as session:
        same(session.run(inputs), {key: expected[key] for key in ["hidden_states_out"]}, 1e-5)
    assert tx.Engine.from_dir(tmp_path).config.build_config.max_num_tokens == 32
    envelope = EngineDir.read(tmp_path).envelope
    assert (envelope.built_by, envelope.engine_kind) == ("tensorrt_llm 0.16.0", "tensorrt")


def test_the_class_of_another_architecture_is_refused(built_model):
    other = sys.modules["trtllm_ext.tensorrt_llm.model_classes"].Encoder
    with pytest.raises(ConfigError, match=r"is SublayerStack, the class Encoder\. Give --model_cls_name Sub"):
        other.from_checkpoint(ANSWERS / STACK)


def test_unset_parameters_are_refused_and_not_filled_at_random():
    builder = Builder()
    network = builder.create_network()
    with net_guard(network):
        constant(np.zeros(3, np.float32)).mark_output("y", "float32")
    network._unfilled_weights = {"transformer.w": (None, None)}
    with pytest.raises(
        BuildError, match=r"1 parameters have no value, the first being that of transformer\.w"
    ):
        builder.build_engine(network, builder.create_builder_config(precision="float32"))


def test_configs_that_say_too_little_are_refused(built_model):
    stored = json.loads((ANSWERS / STACK / "config.json").read_text())
    with pytest.raises(ConfigError, match="has no contract"):
        PretrainedConfig.from_dict({**stored, "contract": None})
    with pytest.raises(ConfigError, match=r"quantization\.quant_algo=FP8: no model here is quantised"):
        PretrainedConfig.from_dict({**stored, "quantization": {"quant_algo": "FP8"}})


def run_module(module, x):
    builder = Builder()
    network = builder.create_network()
    with net_guard(network):
        given = tensorrt_llm.Tensor(name="x", dtype="float32", shape=x.shape)
        module(given).mark_output("y", "float32")
    engine = builder.build_engine(network, builder.create_builder_config(precision="float32"))
    with tx.Session.from_serialized_engine(engine) as session:
        return session.run({"x": x})["y"]


@pytest.mark.parametrize(
    ("kind", "act", "ours"),
    [
        (MLP, "relu", FeedForward),
        (MLP, "gelu", FeedForward),
        (GatedMLP, "silu", GatedFeedForward),
        (FusedGatedMLP, "silu", Module),
    ],
)
def test_mlps_are_replaced_with_their_parameters(kind, act, ours):
    model = Module()
    model.forward = lambda x: model.mlp(x)
    model.mlp = kind(8, 12, act)
    rng = np.random.default_rng(0)
    for _, parameter in model.named_parameters():
        parameter.value = rng.normal(0, 0.4, parameter.shape).astype(np.float32)
    x = rng.normal(size=(5, 8)).astype(np.float32)
    before, old = run_module(model, x), model.mlp
    kept = dict(model.named_parameters())
    assert replace_mlps(model) == ["mlp"]
    assert model.mlp is not old and isinstance(model.mlp, ours)
    assert dict(model.named_parameters()) == kept
    np.testing.assert_allclose(run_module(model, x), before, rtol=0, atol=1e-5 * np.abs(before).max())


def test_an_mlp_in_two_places_is_replaced_in_both():
    model = Module()
    model.first, model.second = Module(), Module()
    model.first.mlp = model.second.mlp = MLP(8, 12, "relu")
    assert replace_mlps(model) == ["first.mlp", "second.mlp"]
    assert isinstance(model.second.mlp, FeedForward) and model.second.mlp is model.first.mlp


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hidden_act": "gegelu"}, "hidden_act='gegelu'"),
        ({"lora": object()}, "LoRA is not part"),
        ({"is_expert": True}, "expert of a mixture"),
        ({"fc": RowLinear(8, 12, True, "float32"), "proj": Module()}, "its proj is a Module"),
    ],
)
def test_mlps_that_cannot_be_expressed_are_refused(changes, reason):
    model = Module()
    model.mlp = MLP(8, 12, "relu")
    for name, value in changes.items():
        setattr(model.mlp, name, value)
    with pytest.raises(ConfigError, match=f"mlp, a MLP, cannot be replaced: .*{reason}"):
        replace_mlps(model)
