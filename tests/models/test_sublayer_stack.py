"""SublayerStack: its weights, limits and profiles, and what it refuses; its maths is in test_sublayer_stack_forms."""

import numpy as np
import pytest
from sampling import covered

import trtllm_ext as tx
from trtllm_ext.checkpoint import PLACEMENTS, ModelConfig, expected_weights, load_checkpoint
from trtllm_ext.errors import CheckpointError, ConfigError
from trtllm_ext.models import (
    Encoder,
    SublayerStack,
    model_from_checkpoint,
    model_from_config,
    sublayer_stack_config,
    write_random_checkpoint,
)
from trtllm_ext.parallel import Mapping

BUDGET_S = 5

HIDDEN, FFN, LAYERS = 16, 40, 3


def config(**changes):
    fields = {"hidden_size": HIDDEN, "ffn_hidden_size": FFN, "num_hidden_layers": LAYERS, **changes}
    return sublayer_stack_config(**fields)


def run(model, x, **limits):
    engine = tx.build(model, tx.BuildConfig(max_num_tokens=32, **limits)).engine
    with tx.Session.from_serialized_engine(engine) as session:
        return session.run({"hidden_states": x})["hidden_states_out"]


@covered(placement=PLACEMENTS, gated=[True, False], bias=[True, False])
def test_parameters_are_the_weights_that_a_checkpoint_holds(placement, gated, bias):
    stack = config(placement=placement, gated=gated, bias=bias, final_norm=True)
    parameters = {name: parameter.shape for name, parameter in model_from_config(stack).named_parameters()}
    assert parameters == expected_weights(stack)


def test_tokens_do_not_influence_each_other_and_one_is_enough(tmp_path):
    write_random_checkpoint(tmp_path / "c", config())
    model = model_from_checkpoint(tmp_path / "c")
    x = np.random.default_rng(0).normal(size=(32, HIDDEN)).astype(np.float32)
    np.testing.assert_allclose(run(model, x)[5:6], run(model, x[5:6]), atol=1e-6)


def test_limits(tmp_path):
    assert SublayerStack.limits == {"max_num_tokens", "opt_num_tokens"}
    model = model_from_config(config())
    with pytest.raises(
        ConfigError, match=r"SublayerStack needs max_num_tokens as a positive integer, got None"
    ):
        model.prepare_inputs()
    with pytest.raises(ConfigError, match=r"opt_num_tokens=9 must lie between 1 and 8"):
        model.prepare_inputs(max_num_tokens=8, opt_num_tokens=9)


def test_the_profile_is_one_opt_max(tmp_path):
    write_random_checkpoint(tmp_path / "c", config())
    engine = tx.build(
        model_from_checkpoint(tmp_path / "c"), tx.BuildConfig(max_num_tokens=32, opt_num_tokens=4)
    )
    with tx.Session.from_serialized_engine(engine.engine) as session:
        shapes = session.engine.get_tensor_profile_shape("hidden_states", 0)
        assert [tuple(shape) for shape in shapes] == [(1, HIDDEN), (4, HIDDEN), (32, HIDDEN)]


def test_without_a_number_to_tune_for_it_is_half_of_the_most():
    with tx.net_guard(tx.Builder().create_network()):
        inputs = model_from_config(config()).prepare_inputs(max_num_tokens=1001)
    assert inputs["hidden_states"].profiles[0].opt == [501, HIDDEN]


def test_loading_other_weights_is_refused():
    model = model_from_config(config(num_hidden_layers=1))
    weights = {name: np.zeros(shape, np.float32) for name, shape in expected_weights(model.config).items()}
    weights["transformer.layers.0.mlp.fc_.bias"] = weights.pop("transformer.layers.0.mlp.fc.bias")
    with pytest.raises(
        CheckpointError, match=r"missing transformer.layers.0.mlp.fc.bias; not its own: .*fc_.bias"
    ):
        model.load(weights)


def test_unset_parameters_are_an_error_not_random():
    with pytest.raises(tx.errors.GraphError, match=r"transformer.layers.0.* has no value"):
        run(model_from_config(config()), np.zeros((1, HIDDEN), np.float32))


def test_configs_that_do_not_fit_are_refused():
    with pytest.raises(
        ConfigError, match=r"Encoder is built from architecture 'Encoder', this config says 'Subl"
    ):
        Encoder(config())
    for name in ("pp_size", "cp_size"):
        with pytest.raises(ConfigError, match=rf"{name}=2 is not supported"):
            ModelConfig(**{**vars(config()), "mapping": Mapping(world_size=2, **{name: 2})})
    with pytest.raises(ConfigError, match=r"num_hidden_layers=0 must be at least 1"):
        config(num_hidden_layers=0)
    with pytest.raises(ConfigError, match=r"'gelu' is ambiguous"):
        config(hidden_act="gelu")


def test_a_checkpoint_of_two_ranks_gives_each_its_model(tmp_path):
    sharded = ModelConfig(**{**vars(config()), "mapping": Mapping(world_size=2, tp_size=2)})
    write_random_checkpoint(tmp_path / "c", sharded)
    assert load_checkpoint(tmp_path / "c", rank=1).weights["transformer.layers.0.mlp.fc.weight"].shape == (
        20,
        16,
    )
    model = model_from_checkpoint(tmp_path / "c", rank=1)
    assert model.config.mapping.rank == 1
    assert dict(model.named_parameters())["transformer.layers.0.mlp.proj.weight"].shape == (16, 20)
