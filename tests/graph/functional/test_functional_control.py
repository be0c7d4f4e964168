"""Branches chosen at run time, and conditions that must hold."""

import numpy as np
import pytest
from sampling import covered

from trtllm_ext.errors import GraphError
from trtllm_ext.graph import functional as fn
from trtllm_ext.graph.functional import Conditional

BUDGET_S = 4

X = np.array([[1.0, -2.0], [3.0, 4.0]], np.float32)


@covered(shape=[(), (1,), (1, 1)], chosen=[True, False])
def test_conditional(run, shape, chosen):
    def define(condition, x, y):
        conditional = Conditional(condition)
        inside, other = conditional.add_input(x), conditional.add_input(y)
        first = conditional.add_output(inside * 2.0, fn.matmul(inside, other))
        second = conditional.add_output(fn.shape(other), fn.shape(inside) * 2)
        return first, second

    got, sizes = run(define, np.full(shape, chosen), X, X + 1, shapes=[shape, (-1, 2), (2, -1)])
    np.testing.assert_allclose(got, X * 2 if chosen else X @ (X + 1), rtol=1e-6)
    np.testing.assert_array_equal(sizes, [2, 2] if chosen else [4, 4])


def test_conditional_errors(guarded):
    _, add_input = guarded
    x, half = add_input("x", "float32", [2]), add_input("h", "float16", [2])
    with pytest.raises(GraphError, match="condition is float32; it takes bool"):
        Conditional(x)
    with pytest.raises(GraphError, match=r"a condition of one element, got the shape \(2,\)"):
        Conditional(add_input("b", "bool", [2]))
    conditional = Conditional(add_input("c", "bool", []))
    with pytest.raises(GraphError, match="different types, float32 and float16"):
        conditional.add_output(x, half)
    with pytest.raises(GraphError, match="true_value is a float"):
        conditional.add_output(1.0, x)
    with pytest.raises(GraphError, match="input is a int"):
        conditional.add_input(3)


def test_assertion(run, guarded):
    def define(x):
        fn.assertion(fn.eq(fn.shape(x, 1), 2), "two columns")
        return x + 1.0

    np.testing.assert_array_equal(run(define, X, shapes=[(-1, -1)]), X + 1)
    with pytest.raises(GraphError, match="condition is int64; it takes bool"):
        fn.assertion(fn.shape(guarded[1]("x", "float32", [-1]), 0))


def test_an_assertion_that_fails(make_network):
    from trtllm_ext.graph.network import net_guard
    from trtllm_ext.graph.tensor import Tensor

    network = make_network()
    with net_guard(network):
        x = Tensor("x", "float32", [-1, 3])
        fn.assertion(fn.eq(fn.shape(x, 1), 2), "two columns please")
        x.mark_output("y")
    config = network.test_builder.create_builder_config()
    profile = network.test_builder.create_optimization_profile()
    profile.set_shape("x", (1, 3), (1, 3), (1, 3))
    config.add_optimization_profile(profile)
    assert network.test_builder.build_serialized_network(network.trt_network, config) is None
    assert "two columns please" in str(network._logger.errors)
