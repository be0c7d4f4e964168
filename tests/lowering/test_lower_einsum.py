"""Einstein sums against numpy's, whatever the equation, with lengths of 1 and 0 and lengths that a run tells."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowered_net import FLOATS, NUMPY, Net, same_bits
from sampling import examples

import trtllm_ext.embedded as trt
from trtllm_ext.lowering import lower

BUDGET_S = 6


def summed(equation, arrays, *, dynamic=False, level="ALL"):
    net = Net()
    names = {dtype: name for name, dtype in NUMPY.items()}
    inputs = [
        net.input(f"x{number}", names[array.dtype], (-1,) * array.ndim if dynamic else array.shape)
        for number, array in enumerate(arrays)
    ]
    net.mark(net.op("einsum", inputs, equation))
    return net.run({f"x{number}": array for number, array in enumerate(arrays)}, level)["y"]


@st.composite
def problems(draw):
    """An equation and operands of whole numbers, whose sums are exact."""
    lengths = {letter: draw(st.integers(0, 4)) for letter in "abcd"}
    terms = draw(st.lists(st.lists(st.sampled_from("abcd"), unique=True), min_size=1, max_size=3))
    used = sorted({letter for term in terms for letter in term})
    output = draw(st.permutations(used))[: draw(st.integers(0, len(used)))]
    equation = ",".join("".join(term) for term in terms) + "->" + "".join(output)
    dtype = draw(st.sampled_from([np.float32, np.int32, np.int64]))
    shapes = [[draw(st.sampled_from([lengths[letter]] * 4 + [1])) for letter in term] for term in terms]
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    return equation, [rng.integers(-3, 4, shape).astype(dtype) for shape in shapes]


@settings(max_examples=examples(150), deadline=None)
@given(problem=problems(), dynamic=st.booleans(), level=st.sampled_from(["ALL", "DISABLE_ALL"]))
def test_any_equation(problem, dynamic, level):
    equation, arrays = problem
    same_bits(
        summed(equation, arrays, dynamic=dynamic, level=level), np.asarray(np.einsum(equation, *arrays))
    )


@pytest.mark.parametrize("type_name", FLOATS)
def test_what_is_rounded_is_the_sum(type_name):
    """2048 ones and a half: in float16 and bfloat16 a running sum would lose them long before its end."""
    a = np.concatenate([np.ones(2048), [0.5]]).astype(NUMPY[type_name])
    got = summed("i,i->", [a, np.ones_like(a)])
    same_bits(got, np.asarray(2048.5, np.float32).astype(NUMPY[type_name]))


@pytest.mark.parametrize(("least", "expected"), [(1, ["Einsum"]), (0, ["If"])])
def test_a_branch_only_where_a_tensor_may_be_empty(least, expected):
    net = Net()
    x = net.input("x", "FLOAT", (-1, 3))
    net.mark(net.op("einsum", [x, net.constant(np.ones((3, 2), np.float32))], "ij,jk->ik"))
    (segment,) = lower(net.network, trt, {"x": (least, 3)}).steps
    kinds = [node.op_type for node in segment.model.graph.node]
    assert [kind for kind in kinds if kind in ("Einsum", "If")] == expected
