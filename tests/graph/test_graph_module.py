"""Module, ModuleList and Parameter."""

import ml_dtypes
import numpy as np
import pytest

import trtllm_ext.embedded as trt
from trtllm_ext.errors import GraphError
from trtllm_ext.graph import Module, ModuleList, Parameter, net_guard
from trtllm_ext.graph import functional as fn

BUDGET_S = 10


class Scale(Module):
    def __init__(self, size):
        super().__init__()
        self.weight = Parameter(shape=(size,), dtype="float32")
        self.register_parameter("bias", None)

    def forward(self, x):
        y = x * self.weight.value
        return y if self.bias is None else y + self.bias.value


class Stack(Module):
    def __init__(self, size=4, layers=3):
        super().__init__()
        self.layers = ModuleList([Scale(size) for _ in range(layers)])
        self.norm = Scale(size)
        self.size = size

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


def test_names():
    model = Stack(layers=2)
    assert [name for name, _ in model.named_modules()] == ["", "layers", "layers.0", "layers.1", "norm"]
    assert [name for name, _ in model.named_parameters()] == [
        "layers.0.weight",
        "layers.1.weight",
        "norm.weight",
    ]
    assert [name for name, _ in model.named_parameters(recurse=False)] == []
    assert [name for name, _ in model.named_children()] == ["layers", "norm"]
    assert len(list(model.parameters())) == 3 and len(list(model.modules())) == 5
    parents = {name: parent for name, _, parent in model.named_modules_with_parent()}
    assert parents[""] is None and parents["norm"] is model and parents["layers.1"] is model.layers


def test_shared_parts_are_named_once():
    model = Stack(layers=2)
    model.again = model.norm
    model.layers[1].weight = model.layers[0].weight
    assert [name for name, _ in model.named_parameters()] == ["layers.0.weight", "norm.weight"]
    assert len(list(model.children())) == 2


def test_attributes_come_and_go():
    model = Scale(2)
    assert model.bias is None
    model.bias = Parameter(shape=(2,))
    assert [name for name, _ in model.named_parameters()] == ["weight", "bias"]
    model.bias = None
    assert model.bias is None and [name for name, _ in model.named_parameters()] == ["weight"]
    model.weight = "now a string"
    assert list(model.named_parameters()) == [] and model.weight == "now a string"
    model.part = Scale(1)
    assert "part" in dir(model)
    del model.part
    with pytest.raises(AttributeError, match="'Scale' object has no attribute 'part'"):
        _ = model.part
    with pytest.raises(AttributeError):
        del model.part


def test_super_init_comes_first():
    class Early(Module):
        def __init__(self):
            self.weight = Parameter(shape=(1,))
            super().__init__()

    with pytest.raises(
        GraphError, match=r"Early: call super\(\).__init__\(\) before setting the attribute 'weight'"
    ):
        Early()


def test_a_module_without_forward():
    with pytest.raises(GraphError, match=r"Module defines no forward\(\)"):
        Module()()


def test_apply_visits_children_first():
    seen = []
    model = Stack(layers=1)
    assert model.apply(lambda module: seen.append(type(module).__name__)) is model
    assert seen == ["Scale", "ModuleList", "Scale", "Stack"]


def test_module_list():
    first, second, third = (Scale(i + 1) for i in range(3))
    modules = ModuleList([first, second, third])
    assert len(modules) == 3 and list(modules) == [first, second, third]
    assert modules[-1] is third and list(modules[1:]) == [second, third]
    modules[0] = third
    assert modules[0] is third
    with pytest.raises(GraphError, match="ModuleList takes Modules, item 1 is a int"):
        ModuleList([first, 3])
    with pytest.raises(IndexError):
        modules[3]


def test_network_outputs(guarded):
    _, add_input = guarded
    model = Stack(layers=1)
    x = add_input("x", "float32", [4])
    model.layers[0].register_network_output("scaled", x)
    assert [(name, value is x) for name, value in model.named_network_outputs()] == [
        ("layers.0.scaled", True)
    ]


def test_a_module_used_twice_notes_both(guarded):
    _, add_input = guarded
    model = Stack(layers=1)
    x, y = add_input("x", "float32", [4]), add_input("y", "float32", [4])
    model.layers[0].register_network_output("after", x, "the first")
    model.layers[0].register_network_output("after", y, "the second", [0, 1])
    notes = dict(model.named_network_notes())
    assert list(notes) == ["layers.0.after", "layers.0.after_1"]
    assert notes["layers.0.after"] == (x, "after", "the first", None)
    assert notes["layers.0.after_1"] == (y, "after", "the second", [0, 1])


def test_update_parameters_from_torch():
    torch = pytest.importorskip("torch", reason="torch is an extra")

    class Theirs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.Module()
            self.norm.weight = torch.nn.Parameter(torch.arange(4.0))

    model = Module()
    model.norm = Scale(4)
    model.update_parameters(Theirs())
    np.testing.assert_array_equal(model.norm.weight.raw_value, [0, 1, 2, 3])
    model.other = Scale(4)
    with pytest.raises(GraphError, match=r"missing there \['other.weight'\], unknown here none"):
        model.update_parameters(Theirs())


def test_a_model_computes(run):
    model = Stack(layers=2)
    for i, parameter in enumerate(model.parameters()):
        parameter.value = np.full(4, i + 2, np.float32)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_array_equal(run(model, x, shapes=[(-1, 4)]), x * 24)


# --- parameters ------------------------------------------------------------------------------------------------


def test_an_unset_parameter_is_named(guarded):
    _, add_input = guarded
    model = Stack(layers=2)
    model.layers[0].weight.value = np.ones(4, np.float32)
    message = r"parameter 'layers.1.weight' \(float32 \(4,\)\) has no value; load the weights"
    with pytest.raises(GraphError, match=message):
        model(add_input("x", "float32", [4]))
    assert model.layers[0].weight.is_inited() and not model.norm.weight.is_inited()
    with pytest.raises(GraphError, match=r"parameter .norm.weight. .* has no value"):
        _ = model.norm.weight.raw_value


def test_values_are_borrowed(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(np.arange(16, dtype=np.float32).tobytes())
    mapped = np.memmap(path, mode="r", dtype=np.float32)
    parameter = Parameter(shape=(2, 4), dtype="float32")
    parameter.value = mapped[8:].reshape(2, 4)
    assert np.shares_memory(parameter.raw_value, mapped)
    assert not parameter.raw_value.flags.writeable


def test_values_from_bfloat16_and_torch():
    parameter = Parameter(shape=(3,), dtype="bfloat16")
    array = np.arange(3).astype(ml_dtypes.bfloat16)
    parameter.value = array
    assert np.shares_memory(parameter.raw_value, array)
    torch = pytest.importorskip("torch", reason="torch is an extra")
    tensor = torch.ones(3, dtype=torch.bfloat16)
    parameter.value = tensor
    assert parameter.raw_value.ctypes.data == tensor.data_ptr()


def test_misfits_are_refused():
    parameter = Parameter(shape=(3,), dtype="float16")
    with pytest.raises(GraphError, match="is float16, the value is float32; convert the value"):
        parameter.value = np.zeros(3, np.float32)
    with pytest.raises(GraphError, match=r"has the shape \(3,\), the value \(4,\)"):
        parameter.value = np.zeros(4, np.float16)
    with pytest.raises(GraphError, match="numpy dtype float64 has no TensorRT type"):
        parameter.value = np.zeros(3)
    with pytest.raises(GraphError, match="a Parameter needs a value or a shape"):
        Parameter()
    assert not parameter.is_inited()


def test_kinds_of_parameters():
    assert Parameter(shape=(1,)).dtype == trt.float32
    assert Parameter(np.zeros((2, 3), np.float16)).dtype == trt.float16
    assert Parameter(np.zeros((2, 3), np.float16)).shape == (2, 3)
    one = Parameter(shape=(1, 1), dtype="float32")
    one.value = 2.5
    assert one.raw_value.shape == (1, 1) and one.raw_value.item() == 2.5


def test_a_value_is_one_constant_for_each_network(make_network):
    parameter = Parameter(np.zeros(2, np.float32))
    first, second = make_network(), make_network()
    with net_guard(first):
        tensor = parameter.value
        assert parameter.value is tensor
        fn.exp(parameter.value)
    with net_guard(second):
        assert parameter.value is not tensor
    assert first.trt_network.num_layers == 2
    with pytest.raises(GraphError, match="no network is being defined here"):
        _ = parameter.value


def test_named_parameters_of_a_network_may_be_a_generator(make_network):
    network = make_network()
    model = Stack(layers=1)
    assert network.named_parameters is None
    network.set_named_parameters(model.named_parameters())
    assert [name for name, _ in network.named_parameters] == ["layers.0.weight", "norm.weight"]
    assert network.parameter_name(model.norm.weight) == "norm.weight"


def test_a_value_is_read_inside_of_a_network():
    parameter = Parameter(np.zeros(3, np.float32))
    with pytest.raises(
        GraphError, match=r"wrap the code in `with net_guard\(network\):`, or read .* with raw_value"
    ):
        parameter.value  # noqa: B018
    assert parameter.raw_value.shape == (3,)


def test_a_value_that_does_not_fit_is_told_with_the_parameter_s_path():
    inner, outer = Module(), Module()
    inner.weight = Parameter(shape=(3,))
    outer.fc = inner
    layers = ModuleList([outer])
    with pytest.raises(GraphError, match=r"parameter '0\.fc\.weight' has the shape \(3,\), the value \(4,\)"):
        layers[0].fc.weight.value = np.zeros(4, np.float32)
    with pytest.raises(GraphError, match=r"parameter '0\.fc\.weight' is float32, the value is float16"):
        inner.weight.value = np.zeros(3, np.float16)
