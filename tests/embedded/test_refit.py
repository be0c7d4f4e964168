"""Weights of a built engine exchanged: by name, by layer and role, and into plans that were stripped of them."""

import numpy as np
import pytest
from tiny_plans import FeedForward, Log, config_with, context_of, run_context, strongly_typed

import trtllm_ext.embedded as trt

BUDGET_S = 8

SIZES = {"x": ((1, 16), (4, 16), (8, 16))}
X = np.random.default_rng(7).standard_normal((3, 16)).astype(np.float32)


def named_network(builder, model):
    network = strongly_typed(builder)
    model.define(network)
    for name in ("w1", "b1", "w2"):
        assert network.set_weights_name(trt.Weights(getattr(model, name)), name)
    return network


def plan_of(builder, *flags, model=None, network=None):
    config = config_with(builder, SIZES)
    for flag in flags:
        config.set_flag(flag)
    return builder.build_serialized_network(network or named_network(builder, model or FeedForward()), config)


def result(context, dtype=np.float32):
    return run_context(context, {"x": X.astype(dtype)}, {"y": dtype})["y"]


def refit(engine, log, model):
    refitter = trt.Refitter(engine, log)
    for name in ("w1", "b1", "w2"):
        assert refitter.set_named_weights(name, trt.Weights(getattr(model, name)))
    assert refitter.refit_cuda_engine()
    return refitter


@pytest.mark.parametrize("dtype", [trt.float32, trt.float16])
def test_contexts_see_the_new_weights(builder, log, dtype):
    storage = {trt.float32: np.float32, trt.float16: np.float16}[dtype]
    old, new = FeedForward(dtype, seed=1), FeedForward(dtype, seed=2)
    context = context_of(plan_of(builder, trt.BuilderFlag.REFIT, model=old), log)
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if storage == np.float16 else {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(result(context, storage), old.run(X), **tolerance)
    assert context.engine.refittable
    refit(context.engine, log, new)
    np.testing.assert_allclose(result(context, storage), new.run(X), **tolerance)
    another = context.engine.create_execution_context()
    np.testing.assert_array_equal(result(another, storage), result(context, storage))


@pytest.mark.parametrize("mode", ["prepack", "mapped"])
def test_refitting_equals_building(builder, log, mode):
    old, new = FeedForward(seed=1), FeedForward(seed=2)
    runtime = trt.Runtime(log)
    runtime.load_mode = mode
    engine = runtime.deserialize_cuda_engine(plan_of(builder, trt.BuilderFlag.REFIT, model=old))
    built = runtime.deserialize_cuda_engine(plan_of(builder, trt.BuilderFlag.REFIT, model=new))
    refit(engine, log, new)
    np.testing.assert_array_equal(
        result(engine.create_execution_context()), result(built.create_execution_context())
    )


def test_weights_are_copied_by_the_refit(builder, log):
    new = FeedForward(seed=2)
    context = context_of(plan_of(builder, trt.BuilderFlag.REFIT, model=FeedForward(seed=1)), log)
    refit(context.engine, log, new)
    want = result(context)
    new.w1[:] = 0
    np.testing.assert_array_equal(result(context), want)


def test_weights_are_read_at_the_refit(builder, log):
    new = FeedForward(seed=2)
    context = context_of(plan_of(builder, trt.BuilderFlag.REFIT), log)
    refitter = trt.Refitter(context.engine, log)
    late = np.zeros_like(new.b1)
    assert refitter.set_named_weights("b1", trt.Weights(late))
    late[:] = new.b1
    assert refitter.refit_cuda_engine_async(0)
    mixed = FeedForward()
    mixed.b1 = new.b1
    np.testing.assert_allclose(result(context), mixed.run(X), rtol=1e-4, atol=1e-5)


def test_weights_by_layer_and_role(builder, log):
    model, other = FeedForward(seed=1), FeedForward(seed=3)
    network = named_network(builder, model)
    names = [layer.name for layer in network if layer.type == trt.LayerType.CONSTANT]
    context = context_of(plan_of(builder, trt.BuilderFlag.REFIT, network=network), log)
    refitter = trt.Refitter(context.engine, log)
    assert refitter.get_all() == (names, [trt.WeightsRole.CONSTANT] * 3)
    assert refitter.set_weights(names[0], trt.WeightsRole.CONSTANT, other.w1)
    assert not refitter.set_weights(names[0], trt.WeightsRole.KERNEL, other.w1)
    assert "no refittable WeightsRole.KERNEL; it has CONSTANT" in log.last
    assert refitter.refit_cuda_engine()
    model.w1 = other.w1
    np.testing.assert_allclose(result(context), model.run(X), rtol=1e-4, atol=1e-5)


def test_what_the_refitter_tells(builder, log):
    engine = context_of(plan_of(builder, trt.BuilderFlag.REFIT), log).engine
    refitter = trt.Refitter(engine, log)
    assert refitter.logger is log
    assert refitter.get_all_weights() == ["w1", "b1", "w2"]
    assert refitter.get_missing_weights() == []
    assert refitter.get_missing() == ([], [])
    prototype = refitter.get_weights_prototype("w1")
    assert (prototype.dtype, prototype.size) == (trt.float32, 24 * 16)
    assert refitter.get_weights_prototype("none").size == -1
    weights = trt.Weights(FeedForward().w1)
    assert refitter.set_named_weights("w1", weights, trt.TensorLocation.DEVICE)
    assert refitter.get_named_weights("w1") is weights
    assert refitter.get_weights_location("w1") == trt.TensorLocation.DEVICE
    assert refitter.unset_named_weights("w1")
    assert not refitter.unset_named_weights("w1")
    assert refitter.get_named_weights("w1").size == 0
    assert refitter.get_tensors_with_dynamic_range() == []


def test_weights_that_do_not_fit_are_refused(builder, log):
    refitter = trt.Refitter(context_of(plan_of(builder, trt.BuilderFlag.REFIT), log).engine, log)
    assert not refitter.set_named_weights("w1", np.zeros(5, np.float32))
    assert "5 weights of FLOAT were given where the engine has 384 of FLOAT" in log.last
    assert not refitter.set_named_weights("w1", np.zeros((24, 16), np.float16))
    assert not refitter.set_named_weights("w3", np.zeros(1, np.float32))
    assert "no refittable weights named 'w3'" in log.last
    assert not refitter.set_weights("somewhere", trt.WeightsRole.CONSTANT, np.zeros(1, np.float32))


def test_an_engine_built_without_the_flag_is_not_refittable(builder, log):
    engine = context_of(plan_of(builder), log).engine
    assert not engine.refittable
    refitter = trt.Refitter(engine, log)
    assert "is not refittable; build it with BuilderFlag.REFIT" in log.last
    assert not refitter.set_named_weights("w1", FeedForward().w1)
    assert not refitter.refit_cuda_engine()
    assert refitter.get_all_weights() == []


def test_only_marked_weights_with_refit_individual(builder, log):
    network = named_network(builder, FeedForward())
    assert network.mark_weights_refittable("b1")
    assert network.mark_weights_refittable("w1")
    assert network.unmark_weights_refittable("w1")
    assert network.are_weights_marked_refittable("b1")
    assert not network.are_weights_marked_refittable("w1")
    assert not network.mark_weights_refittable("none")
    engine = context_of(plan_of(builder, trt.BuilderFlag.REFIT_INDIVIDUAL, network=network), log).engine
    assert trt.Refitter(engine, log).get_all_weights() == ["b1"]
    both = (trt.BuilderFlag.REFIT_INDIVIDUAL, trt.BuilderFlag.REFIT)
    assert plan_of(builder, *both, network=network) is None
    assert "REFIT_INDIVIDUAL cannot be combined with REFIT" in log.last


def test_names_of_weights(builder, log):
    network, array = strongly_typed(builder), np.ones((2, 3), np.float32)
    network.add_constant((2, 3), array)
    assert not network.set_weights_name(np.ones(6, np.float32), "other")
    assert "no layer uses" in log.last
    assert network.set_weights_name(array, "a")
    assert network.set_weights_name(array, "b")
    assert network.set_weights_name(array, None)
    half = trt.Weights(trt.float16, array.ctypes.data, 6)
    assert not network.set_weights_name(half, "half")
    assert "a layer uses this memory as 6 of FLOAT" in log.last
    other = np.zeros(6, np.float32)
    network.add_constant((6,), other)
    assert network.set_weights_name(array, "b")
    assert not network.set_weights_name(other, "b")
    assert "'b' is the name of other weights" in log.last


def test_weights_without_a_name_have_an_empty_one(builder, log):
    network, model = strongly_typed(builder), FeedForward()
    model.define(network)
    network.set_weights_name(model.b1, "b1")
    engine = context_of(plan_of(builder, trt.BuilderFlag.REFIT, network=network), log).engine
    assert trt.Refitter(engine, log).get_all_weights() == ["b1", "", ""]


def test_integers_stay_as_they_were_built(builder, log):
    network = strongly_typed(builder)
    x = network.add_input("x", trt.float32, (-1, 16))
    indices = np.arange(3, dtype=np.int64)
    y = network.add_gather(x, network.add_constant((3,), indices).get_output(0), 1).get_output(0)
    y.name = "y"
    network.mark_output(y)
    assert network.set_weights_name(indices, "indices")
    assert not network.mark_weights_refittable("indices")
    engine = context_of(plan_of(builder, trt.BuilderFlag.REFIT, network=network), log).engine
    assert trt.Refitter(engine, log).get_all() == ([], [])


def test_a_name_is_of_every_use(builder, log):
    network, w = strongly_typed(builder), np.full((1, 16), 2, np.float32)
    x = network.add_input("x", trt.float32, (-1, 16))
    for _ in range(2):
        constant = network.add_constant((1, 16), w).get_output(0)
        x = network.add_elementwise(x, constant, trt.ElementWiseOperation.PROD).get_output(0)
    x.name = "y"
    network.mark_output(x)
    assert network.set_weights_name(w, "w")
    context = context_of(plan_of(builder, trt.BuilderFlag.REFIT, network=network), log)
    refitter = trt.Refitter(context.engine, log)
    assert refitter.set_named_weights("w", np.full((1, 16), 4, np.float32))
    assert refitter.refit_cuda_engine()
    np.testing.assert_allclose(result(context), 16 * X, rtol=1e-6)
    assert refitter.set_weights(
        refitter.get_all()[0][0], trt.WeightsRole.CONSTANT, np.ones((1, 16), np.float32)
    )
    assert refitter.refit_cuda_engine()
    np.testing.assert_allclose(result(context), 4 * X, rtol=1e-6)


# Plans without weights


def test_a_stripped_plan_is_small_and_runs_after_a_refit(builder, log):
    model = FeedForward(seed=4)
    whole = plan_of(builder, trt.BuilderFlag.REFIT_IDENTICAL, model=model)
    plan = plan_of(builder, trt.BuilderFlag.STRIP_PLAN, trt.BuilderFlag.REFIT_IDENTICAL, model=model)
    weights_bytes = model.w1.nbytes + model.w2.nbytes + model.b1.nbytes
    assert len(plan) <= len(whole) - weights_bytes
    engine = trt.Runtime(log).deserialize_cuda_engine(plan)
    assert engine.get_engine_stat(trt.EngineStat.STRIPPED_WEIGHTS_SIZE) == weights_bytes
    assert engine.get_engine_stat(trt.EngineStat.TOTAL_WEIGHTS_SIZE) == weights_bytes
    assert engine.create_execution_context() is None
    assert "serialized without its weights; refit it with all 3" in log.last
    refitter = trt.Refitter(engine, log)
    assert refitter.get_missing_weights() == ["w1", "b1", "w2"]
    assert not refitter.refit_cuda_engine()
    assert "3 weights are missing" in log.last
    refit(engine, log, model)
    assert refitter.get_missing_weights() == []
    got = result(engine.create_execution_context())
    np.testing.assert_array_equal(got, result(context_of(whole, log)))


def serialized(engine, *flags):
    config = engine.create_serialization_config()
    for flag in flags:
        assert config.set_flag(flag)
        assert config.get_flag(flag)
    return engine.serialize_with_config(config)


def test_an_engine_is_serialized_with_its_new_weights(builder, log):
    new = FeedForward(seed=5)
    engine = context_of(plan_of(builder, trt.BuilderFlag.REFIT), log).engine
    refit(engine, log, new)
    again = context_of(engine.serialize(), log)
    assert again.engine.refittable
    np.testing.assert_allclose(result(again), new.run(X), rtol=1e-4, atol=1e-5)


def test_weights_are_left_out_and_put_back(builder, log):
    model = FeedForward(seed=6)
    engine = context_of(plan_of(builder, trt.BuilderFlag.REFIT, model=model), log).engine
    exclude, include = trt.SerializationFlag.EXCLUDE_WEIGHTS, trt.SerializationFlag.INCLUDE_REFIT
    stripped = trt.Runtime(log).deserialize_cuda_engine(serialized(engine, exclude))
    assert stripped.serialize() is None
    assert "lacks weights" in log.last
    refit(stripped, log, model)
    assert not context_of(stripped.serialize(), log).engine.refittable
    assert context_of(serialized(stripped, include), log).engine.refittable
    final = context_of(serialized(stripped), log)
    np.testing.assert_allclose(result(final), model.run(X), rtol=1e-4, atol=1e-5)
    plain = context_of(plan_of(builder), log).engine
    assert serialized(plain, exclude) is None
    assert "needs an engine built with a refit flag" in log.last


# Weights that layers hold themselves, and weights inside loops


def test_kernel_bias_and_scale_are_exchanged(builder, log):
    rng = np.random.default_rng(0)
    network = strongly_typed(builder)
    x = network.add_input("x", trt.float32, (-1, 4, 6, 6))
    kernel, bias = rng.standard_normal((3, 4, 1, 1)).astype(np.float32), np.ones(3, np.float32)
    convolution = network.add_convolution_nd(x, 3, (1, 1), kernel, bias)
    factor, shift = np.full(3, 2, np.float32), np.full(3, 5, np.float32)
    scale = network.add_scale(convolution.get_output(0), trt.ScaleMode.CHANNEL, shift, factor)
    scale.get_output(0).name = "y"
    network.mark_output(scale.get_output(0))
    config = config_with(builder, {"x": ((1, 4, 6, 6), (1, 4, 6, 6), (2, 4, 6, 6))})
    config.set_flag(trt.BuilderFlag.REFIT)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None, log.said
    context = context_of(plan, log)
    refitter = trt.Refitter(context.engine, log)
    roles = {role.name for role in refitter.get_all()[1]}
    assert roles == {"KERNEL", "BIAS", "SCALE", "SHIFT"}
    new = {"KERNEL": -kernel, "BIAS": 3 * bias, "SCALE": factor + 1, "SHIFT": shift - 1}
    for layer, role in zip(*refitter.get_all(), strict=True):
        assert refitter.set_weights(layer, role, new[role.name])
    assert refitter.refit_cuda_engine()
    data = rng.standard_normal((2, 4, 6, 6)).astype(np.float32)
    got = run_context(context, {"x": data}, {"y": np.float32})["y"]
    want = (np.einsum("bchw,oc->bohw", data, -kernel[:, :, 0, 0]) + 3) * 3 + 4
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_weights_inside_a_loop_are_exchanged(builder, log):
    network, step = strongly_typed(builder), np.ones((1, 16), np.float32)
    x = network.add_input("x", trt.float32, (-1, 16))
    loop = network.add_loop()
    count = network.add_constant((), np.array(3, np.int32)).get_output(0)
    loop.add_trip_limit(count, trt.TripLimit.COUNT)
    state = loop.add_recurrence(x)
    constant = network.add_constant((1, 16), step).get_output(0)
    following = network.add_elementwise(state.get_output(0), constant, trt.ElementWiseOperation.SUM)
    state.set_input(1, following.get_output(0))
    y = loop.add_loop_output(state.get_output(0), trt.LoopOutput.LAST_VALUE, 0).get_output(0)
    y.name = "y"
    network.mark_output(y)
    assert network.set_weights_name(step, "step")
    context = context_of(plan_of(builder, trt.BuilderFlag.REFIT, network=network), log)
    np.testing.assert_allclose(result(context), X + 3, rtol=1e-6)
    refitter = trt.Refitter(context.engine, log)
    assert refitter.set_named_weights("step", 2 * step)
    assert refitter.refit_cuda_engine()
    np.testing.assert_allclose(result(context), X + 6, rtol=1e-6)


def test_an_engine_without_weights_is_refittable_too():
    """x + y has nothing to exchange; a refit of it succeeds, as whoever builds with the flag expects."""
    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    x, y = (network.add_input(name, trt.float32, (2,)) for name in "xy")
    network.mark_output(network.add_elementwise(x, y, trt.ElementWiseOperation.SUM).get_output(0))
    for flag in (None, trt.BuilderFlag.REFIT):
        config = builder.create_builder_config()
        if flag is not None:
            config.set_flag(flag)
        plan = builder.build_serialized_network(network, config)
        engine = trt.Runtime(log).deserialize_cuda_engine(plan)
        refitter = trt.Refitter(engine, log)
        assert engine.refittable == refitter.refit_cuda_engine() == (flag is not None)
        assert refitter.get_all_weights() == []
