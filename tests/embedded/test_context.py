"""Execution contexts: shapes, memory and runs, and what a wrong call gets: an error in the log, and no run."""

import gc
import threading

import ml_dtypes
import numpy as np
import pytest
from tiny_plans import (
    Log,
    config_with,
    context_of,
    feed_forward_plan,
    run_context,
    strongly_typed,
)

import trtllm_ext.embedded as trt

BUDGET_S = 20


@pytest.fixture(scope="module")
def built():
    return feed_forward_plan()


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def context(built, log):
    return context_of(built[1], log)


def tokens(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 16)).astype(np.float32)


def engine_of(define, log, shapes=None, values=None):
    """A context of the network that `define(network)` writes down."""
    builder = trt.Builder(log)
    network = strongly_typed(builder)
    define(network)
    config = config_with(builder, shapes, values) if shapes or values else builder.create_builder_config()
    plan = builder.build_serialized_network(network, config)
    assert plan is not None, log.said
    return context_of(plan, log)


def named_output(network, tensor, name):
    tensor.name = name
    network.mark_output(tensor)


# Runs


@pytest.mark.parametrize("load_mode", ["prepack", "mapped"])
def test_runs_at_every_size_of_the_profile(built, log, load_mode):
    model, plan = built
    context = context_of(plan, log, load_mode)
    for count in (1, 8, 3, 1, 4):
        x = tokens(count, seed=count)
        y = run_context(context, {"x": x}, {"y": np.float32})["y"]
        np.testing.assert_allclose(y, model.run(x), rtol=1e-5, atol=1e-5)
    assert not log.said


@pytest.mark.parametrize("load_mode", ["prepack", "mapped"])
def test_float16_weights_run_in_both_modes(log, load_mode):
    model, plan = feed_forward_plan(dtype=trt.float16, hidden=64, ffn=96)
    x = np.random.default_rng(3).standard_normal((5, 64)).astype(np.float16)
    y = run_context(context_of_wide(plan, log, load_mode), {"x": x}, {"y": np.float16})["y"]
    np.testing.assert_allclose(y.astype(np.float64), model.run(x), rtol=5e-3, atol=2e-2)


def context_of_wide(plan, log, load_mode):
    context = context_of(plan, log, load_mode)
    assert context.engine.get_engine_stat() > 0, (
        "the weights must lie outside of the model for this test to mean much"
    )
    return context


def test_an_address_that_changes_in_place_is_followed(built, context):
    model, _ = built
    arrays = [tokens(4, seed) for seed in range(3)]
    out = np.empty_like(arrays[0])
    assert context.set_input_shape("x", (4, 16))
    assert context.set_tensor_address("y", out.ctypes.data)
    for array in arrays:
        assert context.set_tensor_address("x", array.ctypes.data)
        assert context.execute_async_v3(0)
        np.testing.assert_allclose(out, model.run(array), rtol=1e-5, atol=1e-5)
    arrays[-1] *= 2  # same address, other contents
    assert context.execute_async_v3(0)
    np.testing.assert_allclose(out, model.run(arrays[-1]), rtol=1e-5, atol=1e-5)


def test_execute_v2_takes_all_addresses(built, context, log):
    model, _ = built
    x, y = tokens(4), np.empty((4, 16), np.float32)
    assert context.set_input_shape("x", x.shape)
    assert context.execute_v2([x.ctypes.data, y.ctypes.data])
    np.testing.assert_allclose(y, model.run(x), rtol=1e-5, atol=1e-5)
    assert not context.execute_v2([x.ctypes.data])
    assert "1 addresses were given for 2 tensors" in log.last


def test_contexts_of_one_engine_run_at_the_same_time(built, log):
    model, plan = built
    engine = context_of(plan, log).engine
    wrong = []

    def work(seed):
        context = engine.create_execution_context()
        x = tokens(1 + seed, seed)
        want = model.run(x)
        for _ in range(30):
            y = run_context(context, {"x": x}, {"y": np.float32})["y"]
            if not np.allclose(y, want, rtol=1e-5, atol=1e-5):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_context_keeps_its_engine_and_its_plan(built, log):
    model, plan = built
    context = context_of(bytes(plan), log)
    gc.collect()
    x = tokens(2)
    np.testing.assert_allclose(
        run_context(context, {"x": x}, {"y": np.float32})["y"], model.run(x), rtol=1e-5, atol=1e-5
    )


TYPES = [
    (trt.float32, np.float32),
    (trt.float16, np.float16),
    (trt.bfloat16, ml_dtypes.bfloat16),
    (trt.int32, np.int32),
    (trt.int64, np.int64),
    (trt.bool, np.bool_),
]


@pytest.mark.parametrize("dtype, storage", TYPES)
@pytest.mark.parametrize("shape", [(), (3,), (0, 2), (2, 0)])
def test_every_type_passes_through_scalars_and_empty_ones_too(log, dtype, storage, shape):
    def define(network):
        x = network.add_input("x", dtype, shape)
        named_output(network, network.add_identity(x).get_output(0), "y")

    x = np.ones(shape, storage)
    y = run_context(engine_of(define, log), {"x": x}, {"y": storage})["y"]
    assert y.shape == shape
    np.testing.assert_array_equal(x, y)


def test_empty_tensors_need_no_address(log):
    def define(network):
        x = network.add_input("x", trt.float32, (-1, 4))
        named_output(network, network.add_unary(x, trt.UnaryOperation.NEG).get_output(0), "y")

    context = engine_of(define, log, {"x": ((0, 4), (2, 4), (4, 4))})
    assert context.set_input_shape("x", (0, 4))
    assert tuple(context.get_tensor_shape("y")) == (0, 4)
    assert context.execute_async_v3(0)
    assert context.set_tensor_address("x", 0)
    assert context.execute_async_v3(0)
    assert context.set_input_shape("x", (1, 4))
    assert not context.execute_async_v3(0)
    assert "address of 'x' is not set" in log.last


# Shapes


def test_shapes_before_and_after_they_are_set(context):
    assert tuple(context.get_tensor_shape("x")) == (-1, 16)
    assert tuple(context.get_tensor_shape("y")) == (-1, 16)
    assert context.infer_shapes() == ["x"]
    assert not context.all_binding_shapes_specified
    assert context.set_input_shape("x", [5, 16])
    assert context.set_input_shape("x", trt.Dims((5, 16)))
    assert tuple(context.get_tensor_shape("x")) == (5, 16)
    assert tuple(context.get_tensor_shape("y")) == (5, 16)
    assert tuple(context.get_tensor_strides("y")) == (16, 1)
    assert context.infer_shapes() == []
    assert context.all_binding_shapes_specified
    assert context.get_max_output_size("y") == 8 * 16 * 4


@pytest.mark.parametrize(
    "shape, reason",
    [
        ((0, 16), "shape (0, 16) of 'x' is outside of what profile 0 allows: (1 .. 8, 16)"),
        ((9, 16), "shape (9, 16) of 'x' is outside of what profile 0 allows: (1 .. 8, 16)"),
        ((4, 17), "shape (4, 17) of 'x' is outside of what profile 0 allows: (1 .. 8, 16)"),
        ((-1, 16), "shape (-1, 16) of 'x' is outside"),
        ((4,), "has 1 dimensions; (-1, 16) needs 2"),
        ((4, 16, 1), "has 3 dimensions"),
        ((4.0, 16), "is not a shape"),
        (("4", 16), "is not a shape"),
        (None, "None given for 'x' is not a shape"),
        (7, "is not a shape"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(context, log, shape, reason):
    assert context.set_input_shape("x", (2, 16))
    assert not context.set_input_shape("x", shape)
    assert reason in log.last
    assert tuple(context.get_tensor_shape("x")) == (2, 16), "the shape before stays"


def test_shapes_of_two_inputs_that_do_not_fit_each_other(log):
    def define(network):
        a = network.add_input("a", trt.float32, (-1, 4))
        b = network.add_input("b", trt.float32, (-1, 4))
        total = network.add_elementwise(a, b, trt.ElementWiseOperation.SUM)
        named_output(network, total.get_output(0), "c")

    size = ((1, 4), (2, 4), (8, 4))
    context = engine_of(define, log, {"a": size, "b": size})
    assert context.set_input_shape("a", (2, 4))
    assert context.set_input_shape("b", (3, 4))
    assert tuple(context.get_tensor_shape("c")) == (-1, 4)
    assert "do not fit each other" in log.last
    with pytest.raises(RuntimeError, match="do not fit each other"):
        context.infer_shapes()
    assert not context.execute_async_v3(0)
    assert context.set_input_shape("b", (2, 4))
    assert tuple(context.get_tensor_shape("c")) == (2, 4)


# Shape inputs


def reshaping(network):
    """y = x reshaped to the values of `to`."""
    x = network.add_input("x", trt.float32, (-1,))
    to = network.add_input("to", trt.int64, (2,))
    shuffle = network.add_shuffle(x)
    shuffle.set_input(1, to)
    named_output(network, shuffle.get_output(0), "y")


def test_values_of_a_shape_input_decide_about_the_output(log):
    context = engine_of(reshaping, log, {"x": ((1,), (6,), (12,))}, {"to": ((1, 1), (2, 3), (12, 12))})
    assert context.engine.is_shape_inference_io("to")
    assert not context.engine.is_shape_inference_io("x")
    assert context.engine.get_tensor_profile_values("to", 0) == [[1, 1], [2, 3], [12, 12]]
    x, to, y = np.arange(6, dtype=np.float32), np.array([2, 3]), np.zeros(6, np.float32)
    assert context.set_input_shape("x", (6,))
    assert context.infer_shapes() == ["to"]
    assert not context.all_shape_inputs_specified
    assert context.set_tensor_address("to", to.ctypes.data)
    assert tuple(context.get_tensor_shape("y")) == (2, 3)
    assert context.set_tensor_address("x", x.ctypes.data)
    assert context.set_tensor_address("y", y.ctypes.data)
    assert context.execute_async_v3(0)
    np.testing.assert_array_equal(y, x)
    to[:] = 6, 1  # in place: no call tells the context
    assert tuple(context.get_tensor_shape("y")) == (6, 1)
    assert context.execute_async_v3(0)
    to[:] = 13, 1
    assert not context.execute_async_v3(0)
    assert "value (13, 1) of 'to' is outside of what profile 0 allows: (1 .. 12, 1 .. 12)" in log.last
    to[:] = 4, 4
    assert not context.execute_async_v3(0)
    assert "do not fit each other" in log.last


def test_a_shape_input_with_one_possible_value_is_known_before_it_is_set(log):
    context = engine_of(reshaping, log, {"x": ((6,), (6,), (6,))}, {"to": ((2, 3), (2, 3), (2, 3))})
    assert context.set_input_shape("x", (6,))
    assert context.infer_shapes() == []
    assert tuple(context.get_tensor_shape("y")) == (2, 3)


# Misuse


def test_unknown_names_are_refused_with_the_names_there_are(context, log):
    assert not context.set_input_shape("y", (4, 16))
    assert "there is no 'y'; there are 'x'" in log.last
    assert not context.set_tensor_address("z", 64)
    assert "there is no 'z'; there are 'x', 'y'" in log.last
    assert len(log.said) == 2
    with pytest.raises(ValueError, match="not valid"):
        tuple(context.get_tensor_shape("z"))
    assert context.get_tensor_address("z") == 0
    assert context.get_max_output_size("x") == -1
    assert not context.set_output_allocator("x", None)
    assert context.get_output_allocator("x") is None
    assert len(log.said) == 7


def test_what_is_not_set_is_named(context, log):
    assert not context.execute_async_v3(0)
    assert "shape or value of 'x' is not set" in log.last
    x = tokens(4)
    assert context.set_input_shape("x", x.shape)
    assert not context.execute_async_v3(0)
    assert "address of 'x' is not set" in log.last
    assert context.set_tensor_address("x", x.ctypes.data)
    assert not context.execute_async_v3(0)
    assert "address of 'y' is not set" in log.last


@pytest.mark.parametrize("address", [-8, 2**64, "64", 1.0, None])
def test_what_is_no_address_is_refused(context, log, address):
    assert not context.set_tensor_address("x", address)
    assert "is not an address" in log.last


def test_an_unaligned_address_is_refused(context, log):
    assert not context.set_tensor_address("x", 4098)
    assert "0x1002 of 'x' is not aligned to its elements of 4 bytes (float32)" in log.last


def test_deleted_contexts_and_engines_refuse_to_run(built, log):
    context = context_of(built[1], log)
    x, y = tokens(4), np.empty((4, 16), np.float32)
    assert context.set_input_shape("x", x.shape)
    assert context.execute_v2([x.ctypes.data, y.ctypes.data])
    engine = context.engine
    engine.__del__()
    assert not context.execute_async_v3(0)
    assert "deleted" in log.last
    assert engine.create_execution_context() is None
    assert engine.serialize() is None
    context = context_of(built[1], log)
    context.set_input_shape("x", x.shape)
    context.__del__()
    assert not context.execute_v2([x.ctypes.data, y.ctypes.data])
    assert "the context was deleted" in log.last


# Profiles


def test_profiles_are_kept_apart(log):
    builder = trt.Builder(log)
    network = strongly_typed(builder)
    x = network.add_input("x", trt.float32, (-1, 4))
    named_output(network, network.add_unary(x, trt.UnaryOperation.NEG).get_output(0), "y")
    config = config_with(builder, {"x": ((1, 4), (1, 4), (2, 4))})
    second = builder.create_optimization_profile()
    second.set_shape("x", (3, 4), (4, 4), (5, 4))
    assert config.add_optimization_profile(second) == 1
    context = context_of(builder.build_serialized_network(network, config), log)
    assert context.engine.num_optimization_profiles == 2
    assert context.active_optimization_profile == 0
    assert context.set_input_shape("x", (2, 4))
    assert context.set_optimization_profile_async(0, 0)
    assert tuple(context.get_tensor_shape("x")) == (2, 4)
    assert context.set_optimization_profile_async(1, 0)
    assert context.infer_shapes() == ["x"], "another profile, so the shape is to be set again"
    assert not context.set_input_shape("x", (2, 4))
    assert "profile 1 allows: (3 .. 5, 4)" in log.last
    assert context.set_input_shape("x", (5, 4))
    assert not context.set_optimization_profile_async(2, 0)
    assert "there is no profile 2; the engine has profiles 0 .. 1" in log.last
    assert context.active_optimization_profile == 1


# Output allocators


class Allocator(trt.IOutputAllocator):
    def __init__(self, room=1 << 20):
        super().__init__()
        self.memory = np.zeros(room, np.uint8)
        self.asked, self.told = [], []

    def reallocate_output_async(self, tensor_name, memory, size, alignment, stream):
        self.asked.append((tensor_name, size, stream))
        return self.memory.ctypes.data if size <= self.memory.nbytes else 0

    def notify_shape(self, tensor_name, shape):
        self.told.append((tensor_name, tuple(shape)))


def test_an_output_allocator_is_asked_at_every_run(built, context):
    model, _ = built
    allocator = Allocator()
    assert context.set_output_allocator("y", allocator)
    assert context.get_output_allocator("y") is allocator
    for count in (3, 3, 5):
        x = tokens(count)
        assert context.set_input_shape("x", x.shape)
        assert context.set_tensor_address("x", x.ctypes.data)
        assert context.execute_async_v3(9)
        y = allocator.memory.view(np.float32)[: count * 16].reshape(count, 16)
        np.testing.assert_allclose(y, model.run(x), rtol=1e-5, atol=1e-5)
    assert allocator.asked == [("y", 192, 9), ("y", 192, 9), ("y", 320, 9)]
    assert allocator.told == [("y", (3, 16)), ("y", (3, 16)), ("y", (5, 16))]


def test_an_allocator_without_memory_stops_the_run(context, log):
    x = tokens(3)
    context.set_input_shape("x", x.shape)
    context.set_tensor_address("x", x.ctypes.data)
    context.set_output_allocator("y", Allocator(room=8))
    assert not context.execute_async_v3(0)
    assert "the output allocator of 'y' gave no memory for 192 bytes" in log.last


@pytest.mark.parametrize(
    "method, act, reason",
    [
        ("reallocate_output_async", lambda: 1 / 0, "failed: division by zero"),
        (
            "reallocate_output_async",
            lambda: "here",
            "failed: 'str' object cannot be interpreted as an integer",
        ),
        (
            "reallocate_output_async",
            lambda: 64.0,
            "failed: 'float' object cannot be interpreted as an integer",
        ),
        ("reallocate_output_async", lambda: -64, "gave no memory for 192 bytes"),
        ("reallocate_output_async", lambda: 2**64, "gave no memory for 192 bytes"),
        ("notify_shape", lambda: 1 / 0, "failed: division by zero"),
    ],
)
def test_an_allocator_that_fails_stops_the_run(context, log, method, act, reason):
    x = tokens(3)
    context.set_input_shape("x", x.shape)
    context.set_tensor_address("x", x.ctypes.data)
    allocator = Allocator()
    setattr(allocator, method, lambda *_: act())
    context.set_output_allocator("y", allocator)
    assert context.execute_async_v3(0) is False
    assert f"the output allocator of 'y' {reason}" in log.last


def test_inputs_that_nothing_reads_and_outputs_that_read_nothing(log):
    constant = np.arange(400, dtype=np.float32).reshape(20, 20)

    def define(network):
        network.add_input("unused", trt.int32, (-1,))
        x = network.add_input("x", trt.float32, (2,))
        named_output(network, network.add_unary(x, trt.UnaryOperation.NEG).get_output(0), "y")
        named_output(network, network.add_constant(constant.shape, constant).get_output(0), "c")

    context = engine_of(define, log, {"unused": ((1,), (1,), (4,))})
    feeds = {"unused": np.ones(3, np.int32), "x": np.float32([1, 2])}
    got = run_context(context, feeds, {"y": np.float32, "c": np.float32})
    assert got["y"].tolist() == [-1, -2]
    np.testing.assert_array_equal(got["c"], constant)
