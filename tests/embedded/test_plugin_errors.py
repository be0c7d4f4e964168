"""What goes wrong in a plugin's code is an error with its name and text: at definition, build, load, attach and run."""

import numpy as np
import pytest
from sample_plugins import Bench, CircularPad, Creator, NonZero, NumpyPlugin, Repeat, array_at, run

import trtllm_ext.embedded as trt

BUDGET_S = 6


class Echo(NumpyPlugin):
    """Copies its input."""

    def compute(self, inputs, outputs):
        outputs[0][...] = inputs[0]


def broken(method, answer=None, error=None, base=Echo):
    """A plugin whose `method` raises `error` or gives `answer`."""

    def replacement(self, *arguments):
        if error is not None:
            raise error
        return answer

    return type("Broken", (base,), {method: replacement})


def defined(plugin, bench=None):
    bench = bench or Bench()
    outputs = bench.plugin(plugin, bench.input("x", (-1, 4)))
    if outputs is not None:
        bench.output(outputs[0], "y")
    return bench


def profile(bench):
    return bench.build({"x": ((1, 4), (2, 4), (8, 4))})


RAISES = ZeroDivisionError("no such luck")


@pytest.mark.parametrize("method", ["clone", "get_capability_interface", "get_output_data_types"])
def test_an_exception_at_definition_refuses_the_layer(method):
    bench = defined(broken(method, error=RAISES)())
    assert bench.network.num_layers == 0
    assert (
        f"{method}() raised ZeroDivisionError: no such luck (test_plugin_errors.py, line " in bench.log.last
    )


@pytest.mark.parametrize(
    ("plugin", "reason"),
    [
        (
            broken("get_output_shapes", error=RAISES),
            r"get_output_shapes\(\) raised ZeroDivisionError: no such luck",
        ),
        (broken("get_output_shapes", []), r"get_output_shapes\(\) gave \[\], where a list of 1 belongs"),
        (broken("get_output_shapes", [7]), "gave 7 for output 0, where DimsExprs belong"),
        (broken("get_output_shapes", [trt.DimsExprs(2)]), "gave None for dimension 0 of output 0"),
        (broken("get_output_data_types", [None]), r"get_output_data_types\(\) gave None for output 0"),
        (broken("get_output_data_types", [trt.bool]), "gave <?DataType.BOOL.* for output 0"),
        (broken("get_output_data_types", 5), "gave 5, where a list of 1 belongs"),
        (broken("clone", None), r"clone\(\) gave None, which is no IPluginV3"),
        (broken("get_capability_interface", None), "gave None, which is no IPluginV3OneCore"),
    ],
)
def test_wrong_answers_at_definition_refuse_the_layer(plugin, reason):
    bench = defined(plugin())
    assert bench.network.num_layers == 0
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(bench.log.last)


@pytest.mark.parametrize("attribute", ["plugin_name", "plugin_version", "plugin_namespace", "num_outputs"])
def test_attributes_that_are_not_initialized_are_named(attribute):
    plugin = Echo()
    del plugin.__dict__[attribute]
    plugin.clone = lambda: plugin_without(attribute)
    bench = defined(plugin)
    assert bench.network.num_layers == 0
    assert attribute in bench.log.last and "initialized" in bench.log.last


def plugin_without(attribute):
    plugin = Echo()
    del plugin.__dict__[attribute]
    return plugin


def test_a_clone_that_is_the_plugin_itself_is_refused():
    class Careless(Echo):
        def clone(self):
            return self

    bench = defined(Careless())
    assert bench.network.num_layers == 0
    assert "clone() gave the plugin itself, where a clone belongs" in bench.log.last


def test_what_is_no_plugin_is_a_type_error():
    bench = Bench()
    with pytest.raises(TypeError, match="takes an IPluginV3"):
        bench.network.add_plugin_v3([bench.input("x", (2, 2))], [], object())
    assert bench.network.add_plugin_v2([bench.network.get_input(0)], object()) is None
    assert "add_plugin_v2 is not supported" in bench.log.last
    with pytest.raises(NotImplementedError, match=r"IPluginV2DynamicExt is not supported.*IPluginV3"):
        type("Old", (trt.IPluginV2DynamicExt,), {})()


@pytest.mark.parametrize(
    ("dtype", "shape", "reason"),
    [
        (trt.float32, (2,), "shape input 0 is FLOAT .2,.; it must be INT32 or INT64"),
        (trt.int64, (-1,), "it must be INT32 or INT64, of a known shape"),
        (trt.int32, (65,), "at most 64 elements"),
    ],
)
def test_shape_inputs_are_a_few_integers(dtype, shape, reason):
    bench = Bench()
    times = bench.input("times", shape, dtype)
    assert bench.plugin(Repeat(), bench.input("x", (2, 2)), shape_inputs=[times]) is None
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(bench.log.last)


def test_a_shape_input_made_of_data_is_refused():
    bench = Bench()
    x = bench.input("x", (2, 2))
    total = bench.network.add_matrix_multiply(x, trt.MatrixOperation.NONE, x, trt.MatrixOperation.NONE)
    row = bench.network.add_slice(total.get_output(0), (0, 0), (1, 2), (1, 1)).get_output(0)
    times = bench.network.add_shuffle(row)
    times.reshape_dims = (2,)
    times = bench.network.add_cast(times.get_output(0), trt.int32).get_output(0)
    (y,) = bench.plugin(Repeat(), x, shape_inputs=[times])
    bench.output(y, "y")
    assert bench.build() is None
    assert "depends on data" in bench.log.last


@pytest.mark.parametrize(
    "method",
    [
        "supports_format_combination",
        "configure_plugin",
        "get_valid_tactics",
        "get_workspace_size",
        "set_tactic",
        "on_shape_change",
        "get_fields_to_serialize",
    ],
)
def test_an_exception_during_a_build_names_layer_plugin_and_method(method):
    bench = defined(broken(method, error=RAISES)())
    bench.network.get_layer(0).name = "the layer"
    assert profile(bench) is None
    assert f"the layer: plugin 'Broken' (version '1', namespace ''): {method}() raised" in bench.log.last
    assert "ZeroDivisionError: no such luck" in bench.log.last


@pytest.mark.parametrize(
    ("method", "answer", "reason"),
    [
        (
            "supports_format_combination",
            False,
            "does not support 'x', its input 0, as FLOAT in format LINEAR",
        ),
        ("get_valid_tactics", [0], "gave [0], where a list of positive numbers belongs"),
        ("get_workspace_size", -1, "gave -1, where a number of bytes belongs"),
        ("get_workspace_size", None, "gave None, where a number of bytes belongs"),
        ("get_fields_to_serialize", 3, "gave 3, where a PluginFieldCollection belongs"),
    ],
)
def test_wrong_answers_during_a_build(method, answer, reason):
    bench = defined(broken(method, answer)())
    assert profile(bench) is None
    assert reason in bench.log.last


def test_a_field_whose_data_does_not_fit_its_type_is_not_cut_off():
    wrong = trt.PluginField("pads", np.array([1, 2]), trt.PluginFieldType.INT32)  # int64 data
    bench = defined(broken("get_fields_to_serialize", trt.PluginFieldCollection([wrong]))())
    assert profile(bench) is None
    assert (
        "field 'pads' is declared INT32, of 4 bytes an element, but its 2 elements take 16 bytes"
        in bench.log.last
    )


def test_the_type_of_a_plugins_output_cannot_be_set():
    bench = defined(Echo(), Bench(strongly_typed=False))
    bench.network.get_layer(0).set_output_type(0, trt.float16)
    assert profile(bench) is None
    assert (
        "makes FLOAT as output 0, but the tensor's type was set to HALF; add a cast instead" in bench.log.last
    )


def test_the_name_of_a_plugin_inside_a_loop_is_told():
    bench = Bench()
    x = bench.input("x", (2, 2))
    loop = bench.network.add_loop()
    count = bench.network.add_constant((), np.array(3, np.int32)).get_output(0)
    loop.add_trip_limit(count, trt.TripLimit.COUNT)
    state = loop.add_recurrence(x)
    (after,) = bench.plugin(Echo(), state.get_output(0))
    state.set_input(1, after)
    bench.output(loop.add_loop_output(state.get_output(0), trt.LoopOutput.LAST_VALUE).get_output(0), "y")
    assert bench.build() is None
    assert "plugins cannot be inside a loop or a branch of a conditional" in bench.log.last


# Load and attach


def refusal_at_load(creator_method, plan=None):
    bench = defined(Echo())
    plan = profile(bench)
    creator = Creator(Echo)
    creator.create_plugin = creator_method
    assert bench.load(plan, creator) is None
    return bench.log.last


def test_a_creator_that_fails_is_told_with_its_reason():
    def failing(name, fc, phase):
        raise OSError("table not found")

    said = refusal_at_load(failing)
    assert "deserialize_cuda_engine: plugin 'Echo' (version '1', namespace ''): create_plugin()" in said
    assert "raised OSError: table not found" in said
    assert "create_plugin() gave None, which is no IPluginV3" in refusal_at_load(lambda *arguments: None)


@pytest.mark.parametrize(
    ("method", "answer", "error", "reason"),
    [
        ("attach_to_context", None, RAISES, "attach_to_context() raised ZeroDivisionError: no such luck"),
        ("attach_to_context", None, None, "attach_to_context() gave None, which is no IPluginV3"),
        ("set_tactic", None, RAISES, "set_tactic() raised ZeroDivisionError: no such luck"),
    ],
)
def test_a_plugin_that_cannot_be_attached_makes_no_context(method, answer, error, reason):
    bench = defined(Echo())
    creator = Creator(broken(method, answer, error))
    creator.name = "Echo"
    engine = bench.load(profile(bench), creator)
    assert engine.create_execution_context() is None
    assert "create_execution_context: " in bench.log.last and reason in bench.log.last


# Runs


def context_of(plugin_class, bench=None):
    bench = bench or defined(Echo())
    plan = profile(bench)
    creator = Creator(plugin_class)
    creator.name = "Echo"
    context = bench.load(plan, creator).create_execution_context()
    x, y = np.ones((2, 4), np.float32), np.zeros((2, 4), np.float32)
    context.set_input_shape("x", (2, 4))
    context.set_tensor_address("x", x.ctypes.data)
    context.set_tensor_address("y", y.ctypes.data)
    return bench, context, x, y


@pytest.mark.parametrize("method", ["enqueue", "on_shape_change"])
def test_an_exception_during_a_run_fails_the_run_and_the_next_may_succeed(method):
    class Moody(Echo):
        fails = True

    working = getattr(Echo, method)

    def moody(self, *arguments):
        if Moody.fails:
            raise RAISES
        return working(self, *arguments)

    setattr(Moody, method, moody)
    bench, context, x, y = context_of(Moody)
    for _ in range(2):
        assert context.execute_async_v3(0) is False
    said = bench.log.last
    assert "execute_async_v3: the run failed: (Unnamed Layer* 0) [PluginV3]: plugin 'Moody'" in said
    assert f"{method}() raised ZeroDivisionError: no such luck (test_plugin_errors.py, line " in said
    Moody.fails = False
    assert context.execute_async_v3(0) is True
    np.testing.assert_array_equal(y, x)


def test_a_plugin_cannot_run_the_context_that_is_running_it():
    class Eager(NumpyPlugin):
        def compute(self, inputs, outputs):
            answers.append(context.execute_async_v3(0))
            outputs[0][...] = inputs[0]

    bench, answers = Bench(), []
    bench.output(bench.plugin(Eager(), bench.input("x", (2, 4)))[0], "y")
    context = bench.context(bench.build(), Eager)
    x = np.ones((2, 4), np.float32)
    for _ in range(2):
        np.testing.assert_array_equal(run(context, {"x": x})["y"], x)
    assert answers == [False, False]
    assert "a run of this context has not ended yet" in bench.log.last


@pytest.mark.parametrize("written", [-1, 1 << 20])
def test_a_size_outside_of_its_bounds_is_refused(written):
    class Liar(NonZero):
        def enqueue(self, input_desc, output_desc, inputs, outputs, workspace, stream):
            array_at(outputs[1], output_desc[1])[...] = written

    bench = Bench()
    found, _ = bench.plugin(Liar(), bench.input("x", (-1, 4)))
    bench.output(found, "y")
    context = bench.context(profile(bench), Liar)
    x = np.ones((2, 4), np.float32)
    context.set_input_shape("x", (2, 4))
    context.set_tensor_address("x", x.ctypes.data)
    context.set_output_allocator("y", trt.IOutputAllocator())
    assert context.execute_async_v3(0) is False
    assert f"the plugin wrote {written} as a size to output 1, outside of 0 .. 8" in bench.log.last


def test_lengths_below_zero_are_refused_before_the_run():
    class Shrink(CircularPad):
        def get_output_shapes(self, inputs, shape_inputs, exprBuilder):
            minus = exprBuilder.constant(-3)
            return [
                trt.DimsExprs(
                    [exprBuilder.operation(trt.DimensionOperation.SUM, inputs[0][0], minus), inputs[0][1]]
                )
            ]

    bench = Bench()
    bench.output(bench.plugin(Shrink(), bench.input("x", (-1, 4)))[0], "y")
    context = bench.context(bench.build({"x": ((1, 4), (4, 4), (8, 4))}), Shrink)
    context.set_input_shape("x", (2, 4))
    assert tuple(context.get_tensor_shape("y")) == (-1, 4)
    assert "output 0 would have a length of -1" in bench.log.last
