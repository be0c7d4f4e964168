"""Elementwise and unary operations against numpy."""

import ml_dtypes
import numpy as np
import pytest

from trtllm_ext.errors import GraphError
from trtllm_ext.graph import functional as fn

BUDGET_S = 15

RNG = np.random.default_rng(7)
A = RNG.normal(size=(3, 1, 4)).astype(np.float32)
B = RNG.normal(size=(5, 4)).astype(np.float32)
I, J = np.array([7, -7, 6, 0], np.int32), np.array([2, 2, -3, 5], np.int32)  # noqa: E741
P, Q = np.array([True, True, False, False]), np.array([True, False, True, False])

BINARY = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "maximum": np.maximum,
    "minimum": np.minimum, "gt": np.greater, "lt": np.less, "eq": np.equal,
}  # fmt: skip


@pytest.mark.parametrize("name", BINARY)
def test_binary_broadcasts_as_numpy(run, name):
    got = run(getattr(fn, name), A, B)
    np.testing.assert_allclose(got, BINARY[name](A, B), rtol=1e-6)
    assert got.dtype == BINARY[name](A, B).dtype


@pytest.mark.parametrize("name", ["add", "sub", "mul", "maximum", "minimum", "gt", "lt", "eq"])
def test_binary_on_integers_is_exact(run, name):
    np.testing.assert_array_equal(run(getattr(fn, name), I, J), BINARY[name](I, J))


def test_integer_quotients(run):
    quotient, floor, remainder = run(lambda a, b: (fn.div(a, b), fn.floordiv(a, b), fn.modulo(a, b)), I, J)
    np.testing.assert_array_equal(quotient, [3, -3, -2, 0])
    np.testing.assert_array_equal(floor, I // J)
    np.testing.assert_array_equal(remainder, I % J)


def test_float_floordiv_and_modulo(run):
    floor, remainder = run(lambda a, b: (fn.floordiv(a, b), fn.modulo(a, b)), A, B)
    np.testing.assert_allclose(floor, A // B)
    np.testing.assert_allclose(remainder, A - (A // B) * B, atol=1e-6)


def test_pow(run):
    base = np.abs(A) + 0.5
    np.testing.assert_allclose(run(fn.pow, base, B), base**B, rtol=2e-6)


@pytest.mark.parametrize(
    "name, reference", [("op_and", np.logical_and), ("op_or", np.logical_or), ("op_xor", np.logical_xor)]
)
def test_logic(run, name, reference):
    np.testing.assert_array_equal(run(getattr(fn, name), P, Q), reference(P, Q))


def test_not_op(run):
    np.testing.assert_array_equal(run(fn.not_op, P), ~P)


@pytest.mark.parametrize("name", ["exp", "sin", "cos", "abs"])
def test_unary(run, name):
    np.testing.assert_allclose(run(getattr(fn, name), A), getattr(np, name)(A), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["sqrt", "log"])
def test_unary_of_positive(run, name):
    x = np.abs(A) + 0.1
    np.testing.assert_allclose(run(getattr(fn, name), x), getattr(np, name)(x), rtol=1e-5, atol=1e-6)


def test_round_takes_halves_to_even(run):
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 1.2], np.float32)
    np.testing.assert_array_equal(run(fn.round, x), np.round(x))


def test_int_clip(run):
    np.testing.assert_array_equal(run(lambda x: fn.int_clip(x, -2, 6), I), np.clip(I, -2, 6))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_types_round_once_per_layer(run_rounded, dtype):
    a, b = A.astype(dtype), B.astype(dtype)
    got = run_rounded(lambda x, y: (x + y) * y, a, b)
    rounded = (a.astype(np.float32) + b.astype(np.float32)).astype(dtype)
    want = (rounded.astype(np.float32) * b.astype(np.float32)).astype(dtype)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got.astype(np.float32), want.astype(np.float32))


def test_scalars_take_the_type_of_the_other_operand(guarded):
    _, add_input = guarded
    for dtype in ("float32", "float16", "bfloat16", "int32", "int64"):
        x = add_input(dtype, dtype, [2, 3])
        assert (x + 2).dtype == x.dtype
        assert fn.mul(3, x).dtype == x.dtype
        assert (x + 2).shape == (2, 3)


def test_int32_beside_int64_becomes_int64(run):
    got = run(fn.add, I, J.astype(np.int64))
    assert got.dtype == np.int64
    np.testing.assert_array_equal(got, I + J)


def test_different_float_types_are_refused_by_name(guarded):
    _, add_input = guarded
    x, y = add_input("x", "float32", [2]), add_input("y", "float16", [2])
    with pytest.raises(GraphError, match=r"add_L\d+/.*different types, float32 and float16.*functional.cast"):
        fn.add(x, y)
    with pytest.raises(GraphError, match="different types, float32 and float16"):
        fn.matmul(add_input("a", "float32", [2, 2]), add_input("b", "float16", [2, 2]))
    with pytest.raises(GraphError, match="different types, float16 and int32"):
        fn.mul(y, add_input("z", "int32", [2]))


@pytest.mark.parametrize(
    "dtype, scalar, type_name",
    [("int32", 0.5, "int32"), ("int32", 2**40, "int32"), ("float16", 1e9, "float16"), ("bool", 3, "bool"),
     ("int64", float("inf"), "int64")],
)  # fmt: skip
def test_scalars_that_do_not_fit_are_refused(guarded, dtype, scalar, type_name):
    _, add_input = guarded
    with pytest.raises(GraphError, match=f"does not fit {type_name}"):
        fn.eq(add_input("x", dtype, [2]), scalar)


def test_infinite_scalars_are_meant(run):
    x = np.array([1, 2], np.float16)
    np.testing.assert_array_equal(run(lambda x: fn.minimum(x, float("inf")), x), x)


def test_operands_that_are_neither_tensor_nor_number(guarded):
    _, add_input = guarded
    with pytest.raises(GraphError, match=r"an operand is a list \(\[1, 2\]\); it takes a Tensor or a number"):
        fn.add(add_input("x", "float32", [2]), [1, 2])
    with pytest.raises(GraphError, match=r"input is a float \(1\.0\); it takes a Tensor"):
        fn.exp(1.0)


def test_shapes_that_do_not_broadcast_are_refused(guarded):
    _, add_input = guarded
    with pytest.raises(
        GraphError,
        match=r"add_L\d+/.*: add_elementwise refuses float32 \(2, 3\), float32 \(2, 4\).*conformable",
    ):
        fn.add(add_input("x", "float32", [2, 3]), add_input("y", "float32", [2, 4]))


def test_two_scalars(run):
    got = run(lambda x: (fn.add(1, 2), fn.mul(1, 2.5), fn.op_or(True, False), x), np.zeros(1, np.float32))
    assert (got[0], got[1], got[2]) == (3, 2.5, True)
    assert [each.dtype for each in got[:3]] == [np.int32, np.float32, np.bool_]


def test_rank_zero_beside_rank_two(run):
    x = np.array(2.0, np.float32)
    np.testing.assert_array_equal(run(fn.mul, x, B), 2 * B)
    assert run(lambda x: x * 3.0, x).shape == ()
