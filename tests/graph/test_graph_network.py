"""net_guard, precision, names of layers, weakly typed networks."""

import threading

import numpy as np
import pytest

import trtllm_ext.embedded as trt
from trtllm_ext.errors import GraphError
from trtllm_ext.graph import Module, Tensor, default_net, default_trtnet, net_guard, precision
from trtllm_ext.graph import functional as fn
from trtllm_ext.graph.naming import layer_kind

BUDGET_S = 10


def test_outside_of_a_guard():
    for call in (
        default_net,
        default_trtnet,
        lambda: Tensor("x", "float32", [1]),
        lambda: fn.constant(np.zeros(1, np.float32)),
    ):
        with pytest.raises(
            GraphError, match="no network is being defined here; wrap the code in `with net_guard"
        ):
            call()


def test_guard_takes_a_network():
    with pytest.raises(GraphError, match="net_guard takes a Network"):
        net_guard(None)


def test_guards_nest_and_are_left_when_the_block_raises(make_network):
    outer, inner = make_network(), make_network()
    with net_guard(outer):
        with pytest.raises(ZeroDivisionError), net_guard(inner):
            assert default_net() is inner
            assert default_trtnet() is inner.trt_network
            1 / 0  # noqa: B018
        assert default_net() is outer
    with pytest.raises(GraphError):
        default_net()


def test_threads_have_their_own_network(make_network):
    seen = []

    def look():
        try:
            default_net()
        except GraphError as error:
            seen.append(error)

    with net_guard(make_network()):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert len(seen) == 1


def test_precision_is_left_when_the_block_raises(make_network):
    network = make_network(strongly_typed=False)
    with net_guard(network):
        with precision("float16"), pytest.raises(ZeroDivisionError), precision("float32"):
            assert network.dtype == trt.float32
            1 / 0  # noqa: B018
        assert network.dtype is None


class Inner(Module):
    def forward(self, x):
        return squared(x)


class Outer(Module):
    def __init__(self):
        super().__init__()
        self.first = Inner()
        self.blocks = Inner()
        self.blocks.deep = Inner()

    def forward(self, x):
        return fn.relu(self.blocks.deep(self.first(x)))


def squared(x):
    return x * x


def test_layer_names(guarded):
    _, add_input = guarded
    y = Outer()(add_input("x", "float32", [2]))
    network = default_net()
    names = [layer.name for layer in network.get_layers()]
    assert len(set(names)) == len(names) == 3
    assert names[0].startswith("Outer/first/squared_L")
    assert names[1].startswith("Outer/blocks/deep/squared_L")
    assert names[0].endswith("/ELEMENTWISE_PROD_0") and "/mul_L" in names[0]
    assert names[2].startswith("Outer/relu_L") and names[2].endswith("/RELU_0")
    assert y.name == f"{names[2]}_output_0"
    assert y.producer.metadata == names[2]


def test_layer_names_are_unique_and_stop_at_the_guard(guarded):
    network, add_input = guarded
    x = add_input("x", "float32", [2])
    for _ in range(3):
        fn.exp(x)
    names = [layer.name for layer in network.get_layers()]
    assert [name.rsplit("_", 1)[-1] for name in names] == ["0", "1", "2"]


def test_layer_names_leave_out_our_helpers(make_network):
    network = make_network()
    with net_guard(network):
        fn.chunk(fn.layer_norm(Tensor("x", "float32", [-1, 8]), 8), 2, dim=-1)
    named = "\n".join(layer.name for layer in network.get_layers())
    assert "/split_L" in named and "layer_norm_L" in named
    assert "<" not in named and "/_" not in named


def test_layer_names_without_modules(make_network):
    network = make_network()
    with net_guard(network):
        fn.exp(Tensor("x", "float32", [2]))
    name = network.get_layers()[0].name
    assert name.startswith("exp_L") and name.endswith("/UNARY_EXP_0")


def test_errors_name_the_place(guarded):
    _, add_input = guarded

    class Wrong(Module):
        def forward(self, x):
            return x + add_input("h", "float16", [2])

    class Root(Module):
        def __init__(self):
            super().__init__()
            self.part = Wrong()

        def forward(self, x):
            return self.part(x)

    with pytest.raises(
        GraphError, match=r"^Root/part/__add___L\d+/add_L\d+/elementwise_binary_L\d+: the operands have"
    ):
        Root()(add_input("x", "float32", [2]))


def test_unregistered_modules_are_named_by_class(guarded):
    network, add_input = guarded

    class Wrap(Module):
        def __init__(self, part):
            super().__init__()
            object.__setattr__(self, "part", part)

        def forward(self, x):
            return self.part(x) + 1.0

    class Root(Module):
        def __init__(self):
            super().__init__()
            self.part = Inner()
            object.__setattr__(self, "wrap", Wrap(self.part))

        def forward(self, x):
            return self.wrap(x)

    Root()(add_input("x", "float32", [2]))
    names = [layer.name for layer in network.get_layers() if layer_kind(layer) == "ELEMENTWISE"]
    assert names[0].startswith("Root/part/squared_L")
    assert names[1].startswith("Root/Wrap/__add___L")


# --- weakly typed networks -------------------------------------------------------------------------------------


def test_weakly_typed_networks_pin_every_type(make_network):
    network = make_network(strongly_typed=False)
    assert not network.strongly_typed and make_network().strongly_typed
    with net_guard(network):
        x = Tensor("x", "float16", [-1, 8])
        y = fn.gelu(
            fn.matmul(x, fn.constant(np.ones((4, 8), np.float16)), transb=True, use_fp32_acc=False) * 2.0
        )
        z = fn.concat(fn.split(y, 2, dim=1), dim=1)
    assert z.dtype == trt.float16
    computing = [
        layer for layer in network.get_layers() if layer_kind(layer) in ("MATRIX_MULTIPLY", "ELEMENTWISE")
    ]
    assert len(computing) == 2
    for layer in computing:
        assert layer.precision == trt.float16 and layer.precision_is_set
        assert layer.get_output_type(0) == trt.float16 and layer.output_type_is_set(0)
    moving = [
        layer
        for layer in network.get_layers()
        if layer_kind(layer) == "SLICE" and layer.get_output(0).dtype == trt.float16
    ]
    assert len(moving) == 2 and all(
        layer.output_type_is_set(0) and not layer.precision_is_set for layer in moving
    )
    shapes = [layer for layer in network.get_layers() if layer_kind(layer) == "SHAPE"]
    assert shapes and not any(layer.output_type_is_set(0) for layer in shapes)


def test_precision_sets_what_layers_compute_in(make_network):
    network = make_network(strongly_typed=False)
    with net_guard(network):
        x = Tensor("x", "float16", [2])
        with precision("float32"):
            wide = fn.exp(x)
        narrow = fn.exp(x)
    assert wide.producer.precision == trt.float32 and wide.dtype == trt.float16
    assert narrow.producer.precision == trt.float16


def test_strongly_typed_networks_pin_nothing(guarded):
    _, add_input = guarded
    y = fn.exp(add_input("x", "float16", [2]))
    assert not y.producer.precision_is_set and not y.producer.output_type_is_set(0)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_weakly_typed_numbers(run, dtype):
    x = np.linspace(-2, 2, 16).astype(dtype).reshape(2, 8)
    w = np.linspace(-1, 1, 32).astype(dtype).reshape(4, 8)
    got = run(lambda x: fn.relu(fn.matmul(x, fn.constant(w), transb=True) + 0.5), x, strongly_typed=False)
    want = np.maximum(x.astype(np.float64) @ w.astype(np.float64).T + 0.5, 0)
    assert got.dtype == dtype
    np.testing.assert_allclose(
        got.astype(np.float64), want, rtol=2e-3 if dtype == np.float16 else 1e-5, atol=2e-3
    )


def test_type_errors_hold_in_weakly_typed_networks(make_network):
    with net_guard(make_network(strongly_typed=False)):
        x, y = Tensor("x", "float32", [2]), Tensor("y", "float16", [2])
        with pytest.raises(GraphError, match="different types, float32 and float16"):
            fn.add(x, y)


def test_ranges_where_fill_layers_have_no_type_of_their_own(run, monkeypatch):
    def define(x):
        with monkeypatch.context() as patch:
            patch.setattr(trt, "IFillLayer", object)  # as in TensorRT 8.6: no to_type
            return fn.arange(1, fn.shape(x, 0), "int32")

    got = run(define, np.zeros((3, 2), np.float32), shapes=[(-1, 2)], strongly_typed=False)
    np.testing.assert_array_equal(got, np.array([1, 2], np.int32))
    assert got.dtype == np.int32
