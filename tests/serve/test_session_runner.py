"""Which engines' requests are joined, and along what: an engine of this package's models, and others."""

from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import stack_formulas
from small_encoder import make_encoder

import trtllm_ext as tx
from trtllm_ext.checkpoint import load_checkpoint
from trtllm_ext.errors import EngineError, InputError
from trtllm_ext.models import sublayer_stack_config, write_random_checkpoint
from trtllm_ext.runtime import Session
from trtllm_ext.serve.joining import Extent, Joining
from trtllm_ext.serve.session_runner import SessionRunner

BUDGET_S = 3

HIDDEN = 16


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """Of two inputs, whose tokens are in the first and in the second dimension, with a tap."""
    folder = tmp_path_factory.mktemp("stack")
    config = sublayer_stack_config(hidden_size=HIDDEN, ffn_hidden_size=32, num_hidden_layers=2)
    config = replace(config, contract=replace(config.contract, attention_input=True))
    write_random_checkpoint(folder / "checkpoint", config)
    build_config = tx.BuildConfig(max_num_tokens=8, taps=("transformer.layers.0.mlp.contribution",))
    tx.build_engine_dir(folder / "checkpoint", folder / "engine", build_config)
    return folder


def stack_inputs(count, seed):
    rng = np.random.default_rng(seed)
    x, attention = rng.normal(size=(count, HIDDEN)), rng.normal(size=(2, count, HIDDEN))
    return {"hidden_states": x.astype(np.float32), "attention_output": attention.astype(np.float32)}


def test_a_stacks_tokens_are_joined_wherever_their_dimension_is(stack, one_thread):
    checkpoint = load_checkpoint(stack / "checkpoint")
    weights = {name: value.astype(np.float64) for name, value in checkpoint.weights.items()}
    with Session.from_engine_dir(stack / "engine") as session:
        runner = SessionRunner(session)
        joining = runner.joining
        assert dict(joining.inputs) == {"hidden_states": 0, "attention_output": 1}
        assert not joining.padded and joining.limits == [(Extent(1), Extent(8))]
        requests = [stack_inputs(count, count) for count in (1, 4, 3)]
        extents = [joining.extent(request) for request in requests]
        outputs = runner.run(joining.join(list(zip(requests, extents, strict=True))))
        for request, answer in zip(requests, joining.split(outputs, extents), strict=True):
            alone = runner.run(request)
            assert sorted(answer) == ["hidden_states_out", "transformer.layers.0.mlp.contribution"]
            for name, value in answer.items():
                np.testing.assert_allclose(value, alone[name], atol=1e-5)
            expected = stack_formulas.stack(
                checkpoint.config,
                weights,
                *(request[name].astype(np.float64) for name in runner_inputs(runner)),
            )
            np.testing.assert_allclose(answer["hidden_states_out"], expected, atol=1e-4)


def runner_inputs(runner):
    return [spec.name for spec in runner.inputs]


def test_an_encoder_is_padded_and_its_ids_are_looked_at(tmp_path, one_thread):
    make_encoder(tmp_path)
    with Session.from_engine_dir(tmp_path / "engine") as session:
        runner = SessionRunner(session)
        assert set(runner.joining.padded) == {
            "input_ids",
            "attention_mask",
            "token_type_ids",
            "last_hidden_state",
        }
        assert runner.joining.limits == [(Extent(1, 1), Extent(4, 20))]
        assert (
            runner.description["architecture"] == "Encoder"
            and runner.description["engine_kind"] == "embedded"
        )
        ones = {name: np.ones((1, 3), np.int32) for name in runner_inputs(runner)}
        runner.check(ones)
        for name, most in (("input_ids", 59), ("token_type_ids", 1)):
            with pytest.raises(InputError, match=rf"{name}' holds ids from .*this model has 0 to {most}"):
                runner.check({**ones, name: ones[name] + most})


def test_networks_of_others_run_one_request_at_a_time():
    builder = tx.Builder()
    network = builder.create_network()
    with tx.net_guard(network):
        x = tx.Tensor(
            name="x", dtype="float32", shape=[-1, 4], dim_range=OrderedDict(rows=[[1, 2, 4]], width=[4])
        )
        tx.functional.softmax(x, 0).mark_output("y", "float32")
    engine = builder.build_engine(network, builder.create_builder_config(precision="float32"))
    with Session.from_serialized_engine(engine) as session:
        runner = SessionRunner(session)
        assert runner.joining is None and runner.description == {}
        with pytest.raises(InputError, match="allowed 1 to 4"):
            runner.check({"x": np.zeros((5, 4), np.float32)})


def test_an_output_without_the_batchs_rows_is_not_dealt_out():
    joining = Joining(inputs={"x": 0}, outputs={"y": 0}, limits=[(Extent(1), Extent(8))])
    with pytest.raises(EngineError, match=r"output 'y' of shape \(2, 4\) is of a batch of 3 rows"):
        joining.split({"y": np.zeros((2, 4))}, [Extent(1), Extent(2)])
