"""Registries, resources, fields, expressions and descriptions, as the bindings have them."""

import threading

import numpy as np
import pytest
from sample_plugins import CircularPad, Creator, GeluBias

import trtllm_ext.embedded as trt

BUDGET_S = 3
OPERATION = trt.DimensionOperation


@pytest.fixture
def registry():
    return trt.Runtime(trt.Logger()).get_plugin_registry()


# Creators


def test_creators_are_told_apart_by_name_version_and_namespace(registry):
    one, other = Creator(CircularPad), Creator(CircularPad)
    assert registry.register_creator(one, "")
    assert not registry.register_creator(other, "")
    assert registry.register_creator(other, "mine")
    third = Creator(CircularPad, version="2")
    assert registry.register_creator(third)
    assert registry.get_creator("CircularPad", "1", "") is one
    assert registry.get_creator("CircularPad", "1", plugin_namespace="mine") is other
    assert registry.get_creator("CircularPad", "2") is third
    assert registry.get_creator("CircularPad", "3", "") is None
    assert registry.all_creators == [one, other, third]
    assert registry.deregister_creator(one) and not registry.deregister_creator(one)
    assert registry.get_creator("CircularPad", "1", "") is None


def test_a_creators_own_namespace_counts_where_no_other_is_given(registry):
    creator = Creator(CircularPad, namespace="own")
    assert registry.register_creator(creator)
    assert registry.get_creator("CircularPad", "1", "own") is creator
    assert registry.get_creator("CircularPad", "1", "") is None


def test_creators_of_the_second_version_are_listed_apart(registry):
    class Old(trt.IPluginCreator):
        pass

    old = Old()
    old.name, old.plugin_version, old.plugin_namespace = "Old", "1", ""
    assert registry.register_creator(old) and registry.register_creator(Creator(GeluBias))
    assert registry.plugin_creator_list == [old]
    assert registry.get_plugin_creator("Old", "1", "") is old
    assert registry.get_plugin_creator("GeluBias", "1", "") is None


def test_a_registry_looks_in_the_one_above(registry):
    creator, process = Creator(GeluBias), trt.get_plugin_registry()
    assert process is trt.get_plugin_registry()
    assert process is trt.get_builder_plugin_registry(trt.EngineCapability.STANDARD)
    assert process.register_creator(creator, "")
    try:
        assert registry.get_creator("GeluBias", "1", "") is creator
        assert creator in registry.all_creators_recursive and not registry.all_creators
        registry.parent_search_enabled = False
        assert registry.get_creator("GeluBias", "1", "") is None
        assert registry.all_creators_recursive == []
    finally:
        assert process.deregister_creator(creator)


def test_what_cannot_be_registered(registry):
    with pytest.raises(TypeError, match="a creator is an IPluginCreatorV3One"):
        registry.register_creator(object())

    class Nameless(trt.IPluginCreatorV3One):
        pass

    with pytest.raises(AttributeError, match=r"Nameless\.name is not initialized"):
        registry.register_creator(Nameless())
    with pytest.raises(RuntimeError, match="plugins written in Python only"):
        registry.load_library("libplugins.so")
    with pytest.raises(TypeError, match="No constructor"):
        trt.IPluginRegistry()
    assert trt.init_libnvinfer_plugins(trt.Logger(), "") is True
    assert trt.init_libnvinfer_plugins(None, namespace="") is True


def test_interfaces_say_what_must_be_overridden():
    with pytest.raises(RuntimeError, match=r"IPluginV3 must override clone\(\)"):
        trt.IPluginV3().clone()
    with pytest.raises(RuntimeError, match=r"must override create_plugin\(\)"):
        trt.IPluginCreatorV3One().create_plugin("", None, trt.TensorRTPhase.BUILD)
    build = trt.IPluginV3OneBuild()
    assert build.format_combination_limit == build.DEFAULT_FORMAT_COMBINATION_LIMIT == 100
    assert build.timing_cache_id is None and build.metadata_string is None
    assert list(build.get_valid_tactics()) == [] and build.get_workspace_size([], []) == 0
    assert trt.IPluginV3OneBuildV2().get_aliased_input(0) == -1
    assert trt.IPluginV3OneRuntime().interface_info.kind == "PLUGIN_V3ONE_RUNTIME"
    assert trt.IPluginV3().api_language == trt.APILanguage.PYTHON


# Resources


class Handle(trt.IPluginResource):
    def __init__(self, log):
        trt.IPluginResource.__init__(self)
        self.log = log

    def clone(self):
        self.log.append("clone")
        return Handle(self.log)

    def release(self):
        self.log.append("release")


def test_a_resource_is_cloned_once_and_released_by_its_last_user(registry):
    log = []
    first = registry.acquire_plugin_resource("handle", Handle(log))
    assert registry.acquire_plugin_resource("handle", Handle(log)) is first
    assert log == ["clone"]
    assert registry.release_plugin_resource("handle") == 0 and log == ["clone"]
    assert registry.release_plugin_resource("handle") == 0 and log == ["clone", "release"]
    assert registry.release_plugin_resource("handle") == -1
    assert registry.acquire_plugin_resource("handle", Handle(log)) is not first


def test_resources_survive_threads(registry):
    log = []

    def work():
        for _ in range(50):
            registry.acquire_plugin_resource("handle", Handle(log))
            registry.release_plugin_resource("handle")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.count("clone") == log.count("release") > 0
    with pytest.raises(TypeError, match="a resource is an IPluginResource"):
        registry.acquire_plugin_resource("other", object())


# Fields


def test_a_field_gives_its_elements_back():
    field = trt.PluginField("pads", np.array([[1, 2], [3, 4]], np.int32), trt.PluginFieldType.INT32)
    assert (field.name, field.size, field.type) == ("pads", 4, trt.PluginFieldType.INT32)
    np.testing.assert_array_equal(field.data, [1, 2, 3, 4])
    text = trt.PluginField("text", b"abc", trt.PluginFieldType.CHAR)
    assert text.size == 3 and text.data.tobytes() == b"abc" and text.data.dtype == np.int8
    empty = trt.PluginField()
    assert (empty.name, empty.size, empty.type) == ("", 0, trt.PluginFieldType.UNKNOWN)
    assert trt.PluginField("x", np.array([]), trt.PluginFieldType.INT32).data.dtype == np.int32


def test_what_is_no_field():
    with pytest.raises(TypeError, match="encode text first"):
        trt.PluginField("text", "abc", trt.PluginFieldType.CHAR)
    with pytest.raises(TypeError, match="is a PluginFieldType"):
        trt.PluginField("x", b"", 5)
    with pytest.raises(ValueError, match="declared INT32, of 4 bytes an element"):
        _ = trt.PluginField("x", np.array([1]), trt.PluginFieldType.INT32).data


def test_collections():
    one, other = trt.PluginField("one"), trt.PluginField("other")
    fields = trt.PluginFieldCollection([one])
    fields.append(other)
    assert [field.name for field in fields] == ["one", "other"] and len(fields) == 2 and fields
    assert fields.pop() is other and fields[0] is one and len(fields[:1]) == 1
    fields.insert(0, other)
    fields.extend([one])
    del fields[0]
    fields[0] = other
    fixed = trt.PluginFieldCollection_(fields)
    assert len(fixed) == 2 and fixed[0] is other and [field.name for field in fixed] == ["other", "one"]
    with pytest.raises(IndexError, match="Out of bounds"):
        fixed[2]
    fields.clear()
    assert not fields and len(fixed) == 2
    with pytest.raises(TypeError, match="holds PluginFields"):
        fields.append("no field")


# Expressions


@pytest.mark.parametrize(
    ("operation", "first", "second", "want"),
    [
        ("SUM", 7, 3, 10),
        ("SUB", 3, 7, -4),
        ("PROD", 7, 3, 21),
        ("MAX", 7, 3, 7),
        ("MIN", 7, 3, 3),
        ("EQUAL", 7, 7, 1),
        ("EQUAL", 7, 3, 0),
        ("LESS", 3, 7, 1),
        ("LESS", 7, 7, 0),
        ("FLOOR_DIV", 7, 2, 3),
        ("FLOOR_DIV", -7, 2, -4),
        ("CEIL_DIV", 7, 2, 4),
        ("CEIL_DIV", -7, 2, -3),
        ("CEIL_DIV", 8, 2, 4),
    ],
)
def test_operations_on_constants_are_constants(operation, first, second, want):
    builder = trt.IExprBuilder()
    result = builder.operation(
        OPERATION.__members__[operation], builder.constant(np.int32(first)), builder.constant(second)
    )
    assert result.is_constant() and result.get_constant_value() == want and not result.is_size_tensor()


def test_what_expressions_refuse():
    builder = trt.IExprBuilder()
    one = builder.constant(1)
    with pytest.raises(ValueError, match="1 is divided by 0"):
        builder.operation(OPERATION.FLOOR_DIV, one, builder.constant(0))
    with pytest.raises(ValueError, match="more than 64 bits"):
        builder.operation(OPERATION.PROD, builder.constant(2**62), builder.constant(2))
    with pytest.raises(ValueError, match="an expression of another call"):
        trt.IExprBuilder().operation(OPERATION.SUM, one, one)
    with pytest.raises(TypeError, match="an operand is an IDimensionExpr"):
        builder.operation(OPERATION.SUM, one, 1)
    with pytest.raises(TypeError, match="the value of a constant must be an int"):
        builder.constant(1.5)
    with pytest.raises(TypeError, match="No constructor"):
        trt.IDimensionExpr()
    size = builder.declare_size_tensor(1, one, one)
    assert size.is_size_tensor() and not size.is_constant() and size.get_constant_value() == -(2**63)
    with pytest.raises(ValueError, match="output 1 is declared a size tensor already"):
        builder.declare_size_tensor(1, one, builder.constant(2))


def test_dims_of_expressions():
    builder = trt.IExprBuilder()
    dims = trt.DimsExprs(2)
    assert len(dims) == 2 and dims[0] is None
    dims[0], dims[-1] = builder.constant(3), builder.constant(4)
    assert [one.get_constant_value() for one in trt.DimsExprs(dims)] == [3, 4]
    assert len(trt.DimsExprs()) == len(trt.DimsExprs(0)) == 0
    with pytest.raises(IndexError, match="Out of bounds: index 2 of 2"):
        dims[2]
    with pytest.raises(TypeError, match=r"IExprBuilder.constant\(\) makes one"):
        dims[0] = 3


def test_an_expression_may_be_used_often_and_nested_deeply():
    # As a tree it would have 2**200 nodes.
    class Deep(CircularPad):
        def get_output_shapes(self, inputs, shape_inputs, exprBuilder):
            length = inputs[0][0]
            for _ in range(200):
                doubled = exprBuilder.operation(OPERATION.SUM, length, length)
                length = exprBuilder.operation(OPERATION.FLOOR_DIV, doubled, exprBuilder.constant(2))
            return [trt.DimsExprs([length])]

    network = trt.Builder(trt.Logger()).create_network(0)
    layer = network.add_plugin_v3([network.add_input("x", trt.float32, (-1,))], [], Deep())
    assert tuple(layer.get_output(0).shape) == (-1,)
    network.get_input(0).shape = (5,)
    assert tuple(layer.get_output(0).shape) == (5,)


def test_descriptions_of_tensors():
    desc = trt.DynamicPluginTensorDesc()
    assert (desc.min, desc.opt, desc.max, desc.desc.dims) == ((), (), (), ())
    desc.min, desc.desc.dims = (1, 2), (-1, 2)
    assert desc.min == (1, 2) and desc.desc.dims == (-1, 2)
    assert desc.desc.type == trt.float32 and desc.desc.format == trt.TensorFormat.LINEAR
