"""Tensors: inputs with ranges, outputs, operators, method forms, the graph around them."""

from collections import OrderedDict

import numpy as np
import pytest

from trtllm_ext.errors import GraphError
from trtllm_ext.graph import Tensor
from trtllm_ext.graph import functional as fn

BUDGET_S = 10

A = np.array([7.0, -7.0, 6.0, 0.5], np.float32)
B = np.array([2.0, 2.0, -3.0, 0.5], np.float32)


def test_operators(run):
    got = run(
        lambda a, b: (
            a + b, a - b, a * b, a / b, a // b, a % b, a < b, a > b, a == b, a <= b, a >= b,
            a + 1.0, 1.0 + a, 1.0 - a, 2.0 * a,
        ), A, B,
    )  # fmt: skip
    want = (
        A + B, A - B, A * B, A / B, A // B, A % B, A < B, A > B, A == B, A <= B, A >= B,
        A + 1, 1 + A, 1 - A, 2 * A,
    )  # fmt: skip
    for i, (one, other) in enumerate(zip(got, want, strict=True)):
        np.testing.assert_allclose(one, other, err_msg=str(i), atol=1e-6)
        assert one.dtype == other.dtype


@pytest.mark.parametrize(
    "expression", [lambda a: -a, lambda a: a**2, lambda a: a @ a, lambda a: 1.0 / a, lambda a: a[0]]
)
def test_operators_that_tensorrt_llm_does_not_have(guarded, expression):
    _, add_input = guarded
    with pytest.raises(TypeError):
        expression(add_input("x", "float32", [2, 2]))


def test_method_forms(run):
    x = np.arange(1, 25, dtype=np.float32).reshape(2, 3, 4)
    got = run(
        lambda x: [
            x.view([0, 12]), x.flatten(), x.permute([2, 0, 1]), x.transpose(0, 1), x.unsqueeze(0),
            x.unsqueeze(1).squeeze(1),
            x.mean(-1), x.max(0, keepdim=True), x.abs(), x.sqrt(), x.log(), x.cast("int32"), x.select(1, 2),
            *x.split(2, dim=2), *x.unbind(0),
        ], x,
    )  # fmt: skip
    want = [
        x.reshape(2, 12), x.reshape(-1), x.transpose(2, 0, 1), x.swapaxes(0, 1), x[None], x,
        x.mean(-1), x.max(0, keepdims=True), abs(x), np.sqrt(x), np.log(x), x.astype(np.int32), x[:, 2],
        x[..., :2], x[..., 2:], x[0], x[1],
    ]  # fmt: skip
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_a_tensor_has_no_truth_value(guarded):
    _, add_input = guarded
    a, b = add_input("a", "float32", [2]), add_input("b", "float32", [2])
    with pytest.raises(GraphError, match="'a' has no truth value"):
        bool(a)
    with pytest.raises(GraphError, match="has no truth value"):
        assert a in [b]
    assert a in [a]
    assert len({a, b}) == 2


def test_an_input_with_ranges(guarded):
    network, _ = guarded
    x = Tensor("x", "float16", [-1, 8], OrderedDict(tokens=[[1, 4, 16], [1, 16, 64]], hidden=[8, 8]))
    assert x.shape == (-1, 8) and x.size() == (-1, 8) and x.size(1) == 8
    assert x.rank() == x.ndim() == 2
    assert x.is_dynamic(0) and not x.is_dynamic()
    assert [profile.min for profile in x.profiles] == [[1, 8], [1, 8]]
    assert [profile.opt for profile in x.profiles] == [[4, 8], [16, 8]]
    assert [profile.max for profile in x.profiles] == [[16, 8], [64, 8]]
    assert x.profiles[0].dimension_names == ["tokens", "hidden"]
    assert x.trt_tensor.get_dimension_name(0) == "tokens" and not x.trt_tensor.get_dimension_name(1)
    assert network.get_inputs()[0] is x
    assert network.is_input(x) and x.network is network and x.get_parent() is None


@pytest.mark.parametrize(
    "shape, ranges, message",
    [
        (
            [-1, 8],
            OrderedDict(a=[[1, 2, 3]]),
            r"dim_range has 1 entries \(a\), the shape \(-1, 8\) has 2 dimensions",
        ),
        (
            [-1],
            OrderedDict(a=[[4, 2, 8]]),
            r"dimension 'a': the range \[4, 2, 8\] is not a size or \[min, opt, max\]",
        ),
        ([-1], OrderedDict(a=[[1, 2]]), r"the range \[1, 2\] is not a size"),
        ([8], OrderedDict(a=[[1, 2, 3]]), r"the shape says 8, the range says \[1, 2, 3\]; write -1"),
        ([-1, -1], OrderedDict(a=[1], b=[1, 2]), r"got \{'a': 1, 'b': 2\} ranges"),
        ([-1], {"a": [1]}, "dim_range is an OrderedDict"),
        (
            [-1],
            OrderedDict(a=[3.5]),
            r"dimension 'a': the range 3.5 is not a size or \[min, opt, max\] of whole",
        ),
        ([-1], OrderedDict(a=[None]), r"dimension 'a': the range None is not a size or"),
        ([-1], OrderedDict(a=[[1, 2, 3.5]]), r"the range \[1, 2, 3.5\] is not a size or"),
        ([-1], OrderedDict(a=[[1, 2, True]]), r"the range \[1, 2, True\] is not a size or"),
        ([-1], OrderedDict(a=["123"]), r"the range '123' is not a size or"),
        (
            [-1],
            OrderedDict(a=4),
            r"dimension 'a': the ranges 4 are not a list of one for each optimization prof",
        ),
    ],
)
def test_ranges_that_do_not_fit(guarded, shape, ranges, message):
    with pytest.raises(GraphError, match=message):
        Tensor("x", "float32", shape, ranges)


def test_ranges_of_numpy_integers(guarded):
    x = Tensor("x", "float32", [-1, 8], OrderedDict(a=[np.array([1, 2, 3])], b=[np.int64(8)]))
    assert (x.profiles[0].min, x.profiles[0].max) == ([1, 8], [3, 8])


def test_input_errors(guarded):
    with pytest.raises(GraphError, match="needs a name, a dtype and a shape; got 'x', None"):
        Tensor("x", shape=[2])
    Tensor("x", "float32", [2])
    with pytest.raises(GraphError, match="the network has an input 'x' already"):
        Tensor("x", "float32", [2])


def test_outputs(run):
    x = np.arange(3, dtype=np.float32)
    # An input, and the same tensor twice: each gets an output of its own.
    got = run(lambda x: [x, *[x * 2.0] * 2], x)
    np.testing.assert_array_equal(got[0], x)
    np.testing.assert_array_equal(got[1], 2 * x)
    np.testing.assert_array_equal(got[2], 2 * x)


def test_output_types_and_names(guarded):
    network, add_input = guarded
    y = add_input("x", "float32", [2]) + 1.0
    y.mark_output("half", "float16")
    y.mark_output("full")
    assert [(each.name, str(each.dtype)) for each in network.get_outputs()] == [
        ("half", "DataType.HALF"),
        ("full", "DataType.FLOAT"),
    ]
    assert network.is_output(y)
    with pytest.raises(GraphError, match="the network has an output 'full' already"):
        y.mark_output("full")


def test_users_and_replacement(guarded):
    network, add_input = guarded
    x = add_input("x", "float32", [2])
    a = fn.exp(x)
    b = fn.sin(x)
    total = a + b
    assert [layer.name for layer in a.get_users()] == [total.get_parent().name]
    b.replace_all_uses_with(a)
    assert b.get_users() == []
    assert total.producer.get_input(1) is a.trt_tensor
    assert network.get_layer_by_name(total.producer.name) is total.producer
    with pytest.raises(GraphError, match=r"the network has no layer 'nothing' \(it has 3 layers\)"):
        network.get_layer_by_name("nothing")


@pytest.mark.parametrize("expression", [lambda a, x: a + x, lambda a, x: a * x, lambda a, x: a - x])
def test_an_array_is_no_operand(guarded, expression):
    _, add_input = guarded
    x = add_input("x", "float32", [4])
    with pytest.raises(GraphError, match=r"an operand is a ndarray .*see functional.constant"):
        expression(A, x)


def test_a_numpy_scalar_is_an_operand(run):
    one, two = run(lambda a: (np.float32(2) * a, np.float64(1) + a), A)
    np.testing.assert_allclose(one, 2 * A)
    np.testing.assert_allclose(two, 1 + A)
