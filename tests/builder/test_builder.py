"""Builder: networks, configs, profiles, and what TensorRT refuses told as an error."""

import os
import threading
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest

import trtllm_ext as tx
from trtllm_ext import backend
from trtllm_ext.errors import BuildError, ConfigError, GraphError
from trtllm_ext.graph import functional

BUDGET_S = 10


def tensor(name, num_tokens, hidden=4):
    """An input [num_tokens, hidden] with one item a profile."""
    return tx.Tensor(
        name=name,
        dtype="float32",
        shape=[-1, hidden],
        dim_range=OrderedDict(num_tokens=num_tokens, hidden=[hidden] * len(num_tokens)),
    )


def build(define, precision="float32", **settings):
    builder = tx.Builder()
    config = builder.create_builder_config(precision=precision, **settings)
    network = builder.create_network()
    with tx.net_guard(network):
        define()
    return builder.build_engine(network, config)


def doubled(*profiles):
    x = tensor("x", list(profiles))
    functional.add(x, x).mark_output("y", "float32")


def test_an_engine_and_its_bytes(tmp_path):
    engine = build(lambda: doubled([1, 2, 4]))
    (tmp_path / "rank0.engine").write_bytes(engine)
    session = tx.Session.from_serialized_engine((tmp_path / "rank0.engine").read_bytes())
    np.testing.assert_array_equal(session.run({"x": np.ones((3, 4), np.float32)})["y"], 2)
    assert engine.nbytes == (tmp_path / "rank0.engine").stat().st_size


def test_profiles_come_from_dim_range():
    session = tx.Session.from_serialized_engine(build(lambda: doubled([1, 2, 4], [8, 8, 16])))
    assert session.profiles("x") == [((1, 4), (2, 4), (4, 4)), ((8, 4), (8, 4), (16, 4))]


def test_a_number_of_profiles_can_be_forced():
    session = tx.Session.from_serialized_engine(
        build(lambda: doubled([1, 2, 4], [8, 8, 16]), force_num_profiles=1)
    )
    assert len(session.profiles("x")) == 1
    with pytest.raises(BuildError, match="force_num_profiles=3, but the inputs declare 1"):
        build(lambda: doubled([1, 2, 4]), force_num_profiles=3)


def test_profiles_of_its_own_are_left_alone():
    builder = tx.Builder()
    config = builder.create_builder_config(precision="float32")
    network = builder.create_network()
    with tx.net_guard(network):
        doubled([1, 2, 4])
    profile = builder.trt_builder.create_optimization_profile()
    profile.set_shape("x", (2, 4), (2, 4), (3, 4))
    config.trt_builder_config.add_optimization_profile(profile)
    session = tx.Session.from_serialized_engine(builder.build_engine(network, config))
    assert session.profiles("x") == [((2, 4), (2, 4), (3, 4))]


def test_min_above_max():
    with pytest.raises(GraphError, match=r"\[4, 2, 1\].*min <= opt <= max"):
        build(lambda: doubled([4, 2, 1]))


def two_inputs(first, second):
    functional.add(tensor("a", first), tensor("b", second)).mark_output("y", "float32")


@pytest.mark.parametrize(
    ("define", "message"),
    [
        (
            lambda: two_inputs([[1, 2, 4]], [[1, 2, 8]]),
            "dimension 'num_tokens' is [min, opt, max] = [1, 2, 4] in input 'a' but [1, 2, 8] in input 'b'",
        ),
        (
            lambda: two_inputs([[1, 2, 4]], [[1, 2, 4], [4, 4, 8]]),
            "all inputs need the same number of ranges in dim_range, but a has 1, b has 2",
        ),
        (
            lambda: tx.Tensor(name="x", dtype="float32", shape=[-1, 4]).mark_output("y", "float32"),
            "input 'x' of shape (-1, 4) varies but has no dim_range",
        ),
        (lambda: tensor("x", [[1, 2, 4]]), "the network has no output"),
    ],
)
def test_networks_that_cannot_be_built(define, message):
    with pytest.raises(BuildError) as caught:
        build(define)
    assert message in str(caught.value)


def test_is_building_is_set_while_any_thread_builds_with_tensorrt(monkeypatch):
    from types import SimpleNamespace

    from trtllm_ext.builder.builder import _is_building

    monkeypatch.delenv("IS_BUILDING", raising=False)
    with _is_building():
        assert "IS_BUILDING" not in os.environ, "the embedded engine has no use for it"
    monkeypatch.setattr(backend, "choice", lambda: SimpleNamespace(engine="tensorrt"))
    first, second = _is_building(), _is_building()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert os.environ["IS_BUILDING"] == "1", "the second build is still at work"
    second.__exit__(None, None, None)
    assert "IS_BUILDING" not in os.environ
    with _is_building():
        del os.environ["IS_BUILDING"]


def test_builds_in_several_threads_leave_the_environment_alone(monkeypatch):
    monkeypatch.delenv("IS_BUILDING", raising=False)
    seen = []

    def work():
        try:
            for _ in range(5):
                build(lambda: doubled([1, 2, 4]))
                seen.append("IS_BUILDING" in os.environ)
        except BaseException as problem:
            seen.append(problem)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [False] * 20


def test_unset_parameters_are_an_error():
    from trtllm_ext.layers import Linear

    def define():
        Linear(4, 4, dtype="float32")(tensor("x", [[1, 2, 4]])).mark_output("y", "float32")

    with pytest.raises(tx.errors.TrtllmExtError if hasattr(tx, "errors") else Exception, match="weight"):
        build(define)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"precision": "float64"},
            "precision='float64' is not known; it is one of float32, float16, bfloat16",
        ),
        ({"profiling_verbosity": "loud"}, "profiling_verbosity='loud' is not known; it is one of"),
        ({"int8": True}, "int8=True needs quantised weights"),
        ({"precision_constraints": "maybe"}, "precision_constraints='maybe' is not known"),
    ],
)
def test_builder_configs_that_are_refused(settings, message):
    with pytest.raises(ConfigError) as caught:
        tx.Builder().create_builder_config(**{"precision": "float32", **settings})
    assert message in str(caught.value)


def test_a_weakly_typed_builder_config_comes_before_the_network():
    builder = tx.Builder()
    config = builder.create_builder_config(precision="float16", strongly_typed=False)
    trt = backend.tensorrt()
    assert not builder.strongly_typed
    assert config.trt_builder_config.get_flag(trt.BuilderFlag.FP16)
    assert config.trt_builder_config.get_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    assert not builder.create_network().strongly_typed


@pytest.mark.parametrize(
    ("told", "precision", "way_out"),
    [
        ("Could not find any implementation for node x.", "float16", "in float32, or with a newer TensorRT."),
        ("Could not infer output types for operation: 1", "float16", "in float32, or with a newer TensorRT."),
        ("Could not find any implementation for node x.", "float32", "for node x."),
        ("Could not find any implementation due to insufficient workspace.", "float16", "or none given."),
        ("other", "float16", "other"),
    ],
)
@pytest.mark.parametrize("constraints", ["obey", "prefer"])
def test_a_network_without_kernels_ends_with_the_way_out(monkeypatch, told, precision, way_out, constraints):
    builder = tx.Builder()
    config = builder.create_builder_config(
        precision=precision, strongly_typed=False, precision_constraints=constraints
    )
    flag = getattr(backend.tensorrt().BuilderFlag, f"{constraints.upper()}_PRECISION_CONSTRAINTS")
    assert config.trt_builder_config.get_flag(flag)
    monkeypatch.setattr(builder.logger, "errors_since", lambda mark: told)
    monkeypatch.setattr(builder, "_prepared", lambda network, settings: settings.trt_builder_config)
    builder.trt_builder = SimpleNamespace(build_serialized_network=lambda network, settings: None)
    with pytest.raises(BuildError) as caught:
        builder.build_engine(SimpleNamespace(trt_network=None), config)
    assert str(caught.value).endswith(way_out)


def test_extra_settings_become_attributes():
    config = tx.Builder().create_builder_config(precision="float32", hidden_size=64)
    assert config.hidden_size == 64
    assert config.to_dict()["precision"] == "float32"


def test_a_timing_cache_round_trips(tmp_path):
    builder = tx.Builder()
    config = builder.create_builder_config(precision="float32", timing_cache=tmp_path / "none.cache")
    path = tmp_path / "model.cache"
    assert tx.Builder.save_timing_cache(config, path)
    again = builder.create_builder_config(precision="float32", timing_cache=path)
    assert again.trt_builder_config.get_timing_cache() is not None
