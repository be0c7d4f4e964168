"""Each layer kind: the shape of its output, with every mode, and what it refuses with which words."""

import numpy as np
import pytest
from defining import add_constant, add_input, errors_of, new_network, shape_of

import trtllm_ext.embedded as trt

BUDGET_S = 10
NONE, TRANSPOSE, VECTOR = (trt.MatrixOperation.__members__[name] for name in ("NONE", "TRANSPOSE", "VECTOR"))
DEFAULT, ELEMENT, ND = (trt.GatherMode.__members__[name] for name in ("DEFAULT", "ELEMENT", "ND"))


def _outcome(network, layer):
    """The output's shape, or the words it was refused with."""
    if layer is None:
        return errors_of(network)[-1]
    known = layer.get_output(0)._known()
    return layer._node.error if known is None else known.shape


def _check(network, layer, expected):
    outcome = _outcome(network, layer)
    if isinstance(expected, str):
        assert isinstance(outcome, str) and expected in outcome, outcome
    else:
        assert outcome == expected


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((2, 3), (2, 3), (2, 3)),
        ((2, 1), (1, 3), (2, 3)),
        ((-1, 3), (1, 1), (-1, 3)),
        ((-1, 3), (5, 3), (5, 3)),
        ((-1, 3), (-1, 3), (-1, 3)),
        ((0, 3), (1, 3), (0, 3)),
        ((), (), ()),
        ((2, 3), (3,), "same number of dimensions"),
        ((2, 3), (2, 4), "broadcast dimensions must be conformable"),
        ((0, 3), (2, 3), "broadcast dimensions must be conformable"),
    ],
)
def test_elementwise(a, b, expected):
    network = new_network()
    x, y = add_input(network, a), add_input(network, b)
    _check(network, network.add_elementwise(x, y, trt.ElementWiseOperation.SUM), expected)
    condition = add_input(network, a, trt.bool)
    _check(network, network.add_select(condition, y, y), expected)


@pytest.mark.parametrize(
    ("a", "op0", "b", "op1", "expected"),
    [
        ((2, 3), NONE, (3, 4), NONE, (2, 4)),
        ((3, 2), TRANSPOSE, (4, 3), TRANSPOSE, (2, 4)),
        ((-1, 3), NONE, (4, 3), TRANSPOSE, (-1, 4)),
        ((-1, -1), NONE, (3, 4), NONE, (-1, 4)),
        ((7, 2, 3), NONE, (1, 3, 4), NONE, (7, 2, 4)),
        ((-1, 12, -1, 32), NONE, (-1, 12, -1, 32), TRANSPOSE, (-1, 12, -1, -1)),
        ((2, 3), NONE, (3,), VECTOR, (2,)),
        ((3,), VECTOR, (3, 4), NONE, (4,)),
        ((3,), VECTOR, (3,), VECTOR, ()),
        ((5, 3), VECTOR, (5, 4, 3), TRANSPOSE, (5, 4)),
        ((5, 3), VECTOR, (1, 3), VECTOR, (5,)),
        ((2, 3), NONE, (2, 3), NONE, "the summed dimensions differ: 3"),
        ((2, 2, 3), NONE, (3, 4), NONE, "same number of leading dimensions"),
        ((2, 2, 3), NONE, (3, 3, 4), NONE, "conformable"),
        ((3,), NONE, (3, 4), NONE, "at least 2 dimensions"),
    ],
)
def test_matrix_multiply(a, op0, b, op1, expected):
    network = new_network()
    x, y = add_input(network, a), add_input(network, b)
    _check(network, network.add_matrix_multiply(x, op0, y, op1), expected)


@pytest.mark.parametrize(
    ("shape", "axes", "keep", "expected"),
    [
        ((2, 3, 4), 0b010, False, (2, 4)),
        ((2, 3, 4), 0b110, True, (2, 1, 1)),
        ((-1, 3), 0b01, True, (1, 3)),
        ((-1, 3), 0b10, False, (-1,)),
        ((2,), 0b1, False, ()),
        ((2, 3), 0, True, "at least one bit"),
        ((2, 3), 0b100, True, "none beyond bit 1"),
        ((), 1, True, "for a tensor of rank 0"),
    ],
)
def test_reduce(shape, axes, keep, expected):
    network = new_network()
    x = add_input(network, shape)
    for op in set(trt.ReduceOperation) - {trt.ReduceOperation.NONE}:
        _check(network, network.add_reduce(x, op, axes, keep), expected)
    assert network.add_reduce(x, trt.ReduceOperation.NONE, axes, keep) is None


def test_softmax_axis_by_default_is_the_third_from_last():
    network = new_network()
    for shape, axes in (((2,), 1), ((2, 3), 1), ((2, 3, 4), 1), ((2, 3, 4, 5), 2), ((1, 2, 3, 4, 5), 4)):
        layer = network.add_softmax(add_input(network, shape))
        assert layer.axes == axes and shape_of(layer.get_output(0)) == shape
    layer.axes = 0b11
    _check(network, layer, "takes one axis")
    layer.axes = 1 << 5
    _check(network, layer, "none beyond bit 4")
    assert network.add_softmax(add_input(network, ())) is None


@pytest.mark.parametrize(
    ("shape", "weights", "axes", "groups", "expected"),
    [
        ((-1, -1, 8), (1, 1, 8), 0b100, 1, (-1, -1, 8)),
        ((2, 6, 4, 4), (1, 6, 1, 1), 0b1100, 1, (2, 6, 4, 4)),
        ((2, 6, 4, 4), (1, 3, 1, 1), 0b1100, 3, (2, 6, 4, 4)),
        ((2, 8), (8,), 0b10, 1, "the input's rank"),
        ((2, 8), (1, 7), 0b10, 1, "dimension 1 must be 1 or 8"),
        ((2, 8), (1, 8), 0b100, 1, "none beyond bit 1"),
        ((2, 6, 4, 4), (1, 6, 1, 1), 0b1100, 3, "dimension 1 must be 1 or 3"),
        ((2, 6, 4, 4), (1, 4, 1, 1), 0b1100, 4, "6 channels cannot be split into 4"),
        ((2, 6, 4, 4), (1, 3, 1, 1), 0b1000, 3, "all dimensions from 2 on"),
    ],
)
def test_normalization(shape, weights, axes, groups, expected):
    network = new_network()
    scale = add_input(network, weights)
    layer = network.add_normalization(add_input(network, shape), scale, scale, axes)
    if layer is not None:
        layer.num_groups = groups
    _check(network, layer, expected)


@pytest.mark.parametrize(
    ("shapes", "axis", "expected"),
    [
        (((2, 3), (2, 4)), 1, (2, 7)),
        (((2, 3), (4, 3)), None, (6, 3)),
        (((1, 2, 3, 4), (1, 5, 3, 4)), None, (1, 7, 3, 4)),
        (((-1, 3), (2, 3)), 0, (-1, 3)),
        (((-1, 3), (2, 4)), 1, (2, 7)),
        (((2, 3), (2,)), 0, "same number of dimensions"),
        (((2, 3), (3, 3)), 1, "dimension 0 differs"),
        (((2, 3),), 2, "axis 2 is out of range"),
        (((2, 3),), -1, "axis -1 is out of range"),
        (((), ()), None, "scalars cannot be concatenated"),
    ],
)
def test_concatenation(shapes, axis, expected):
    network = new_network()
    layer = network.add_concatenation([add_input(network, shape) for shape in shapes])
    if layer is not None and axis is not None:
        layer.axis = axis
        assert layer.axis == axis
    _check(network, layer, expected)


@pytest.mark.parametrize(
    ("shape", "attributes", "expected"),
    [
        ((2, 3, 4), {}, (2, 3, 4)),
        ((2, 3, 4), {"first_transpose": (2, 0, 1)}, (4, 2, 3)),
        ((2, 3, 4), {"first_transpose": trt.Permutation([1, 0, 2]), "reshape_dims": (0, -1)}, (3, 8)),
        ((2, 3, 4), {"reshape_dims": (6, 4), "second_transpose": (1, 0)}, (4, 6)),
        ((-1, -1, 384), {"reshape_dims": (0, 0, 12, 32), "second_transpose": (0, 2, 1, 3)}, (-1, 12, -1, 32)),
        ((-1, -1, 384), {"reshape_dims": (0, 0, 12, -1)}, (-1, -1, 12, 32)),
        ((-1, 384), {"reshape_dims": (-1, 32)}, (-1, 32)),
        ((2, 3), {"reshape_dims": ()}, "the number of elements differs"),
        ((1, 1), {"reshape_dims": ()}, ()),
        ((), {"reshape_dims": (1, 1)}, (1, 1)),
        ((0, 3), {"reshape_dims": (3, 0), "zero_is_placeholder": False}, (3, 0)),
        ((0, 3), {"reshape_dims": (0, -1)}, (0, 3)),
        ((0, 3), {"reshape_dims": (-1, 5), "zero_is_placeholder": False}, (0, 5)),
        ((2, 3), {"reshape_dims": (4, 2)}, "the number of elements differs"),
        ((2, 3), {"reshape_dims": (-1, -1)}, "more than one -1"),
        ((2, 3), {"reshape_dims": (-1, 4)}, "6 elements are not a multiple of 4"),
        ((2, 3), {"reshape_dims": (2, -3)}, "negative length"),
        ((2, 3), {"reshape_dims": (2, 3, 0)}, "copy dimension 2"),
        ((2, 3), {"first_transpose": (1, 1)}, "first_transpose (1, 1) is not a permutation"),
    ],
)
def test_shuffle(shape, attributes, expected):
    network = new_network()
    layer = network.add_shuffle(add_input(network, shape))
    for name, value in attributes.items():
        setattr(layer, name, value)
    _check(network, layer, expected)


def test_shuffle_attributes_before_they_are_set():
    network = new_network()
    layer = network.add_shuffle(add_input(network, (2, 3)))
    assert list(layer.first_transpose) == list(layer.second_transpose) == list(range(8))
    assert layer.zero_is_placeholder is True
    with pytest.raises(ValueError):
        len(layer.reshape_dims)


def test_a_reshape_by_a_tensor_uses_the_values_that_are_known():
    network = new_network()
    x = add_input(network, (-1, -1, 384))
    lengths = network.add_shape(x).get_output(0)
    batch = network.add_gather(lengths, add_constant(network, [0]), 0).get_output(0)
    target = network.add_concatenation([batch, add_constant(network, [-1, 12, 32])]).get_output(0)
    layer = network.add_shuffle(x)
    layer.set_input(1, target)
    assert shape_of(layer.get_output(0)) == (-1, -1, 12, 32)
    x.shape = (4, -1, 384)
    assert shape_of(layer.get_output(0)) == (4, -1, 12, 32)
    x.shape = (4, 5, 384)
    assert shape_of(layer.get_output(0)) == (4, 5, 12, 32)
    layer.set_input(1, add_input(network, (3,), trt.int32))
    assert shape_of(layer.get_output(0)) == (-1, -1, -1)
    layer.set_input(1, add_input(network, (-1,), trt.int32))
    _check(network, layer, "length known when the network is built")


SLICES = [
    # shape, start, size, stride, mode, expected
    ((5, 6), (1, 2), (2, 2), (2, 3), "STRICT_BOUNDS", (2, 2)),
    ((5,), (4,), (5,), (-1,), "STRICT_BOUNDS", (5,)),
    ((5,), (4,), (3,), (0,), "STRICT_BOUNDS", (3,)),
    ((-1,), (4,), (3,), (1,), "STRICT_BOUNDS", (3,)),
    ((5,), (9,), (0,), (1,), "STRICT_BOUNDS", (0,)),
    ((5,), (3,), (3,), (1,), "STRICT_BOUNDS", "out of bounds: start 3, size 3, stride 1 of length 5"),
    ((5,), (-1,), (1,), (1,), "STRICT_BOUNDS", "out of bounds"),
    ((5,), (3,), (9,), (1,), "FILL", (9,)),
    ((5,), (-3,), (9,), (1,), "CLAMP", (9,)),
    ((5,), (-3,), (9,), (1,), "WRAP", (9,)),
    ((5,), (-3,), (9,), (1,), "REFLECT", (9,)),
    ((0,), (0,), (2,), (1,), "CLAMP", "dimension 0 is empty"),
    ((0,), (0,), (2,), (1,), "FILL", (2,)),
    ((5, 5), (0,), (2,), (1,), "STRICT_BOUNDS", "start has 1 elements where 2"),
    ((5,), (0,), (-1,), (1,), "STRICT_BOUNDS", "negative length"),
]


@pytest.mark.parametrize(("shape", "start", "size", "stride", "mode", "expected"), SLICES)
def test_slice(shape, start, size, stride, mode, expected):
    network = new_network()
    x = add_input(network, shape)
    static = network.add_slice(x, start, size, stride)
    static.mode = trt.SampleMode.__members__[mode]
    _check(network, static, expected)
    dynamic = network.add_slice(x, (), (), ())
    for number, values in ((1, start), (2, size), (3, stride)):
        dynamic.set_input(number, add_constant(network, values))
    dynamic.mode = static.mode
    _check(network, dynamic, expected)


def test_slice_of_some_axes():
    network = new_network()
    layer = network.add_slice(add_input(network, (4, -1, 6)), (1,), (2,), (1,))
    layer.axes = (2,)
    assert shape_of(layer.get_output(0)) == (4, -1, 2)
    layer.axes = (-3,)
    assert shape_of(layer.get_output(0)) == (2, -1, 6)
    layer.axes = (3,)
    _check(network, layer, "not 1 different dimensions")
    layer.set_input(5, add_constant(network, [0]))
    assert shape_of(layer.get_output(0)) == (2, -1, 6)
    assert layer.num_inputs == 6 and layer.get_input(3) is None


def test_slice_fill_value():
    network = new_network()
    layer = network.add_slice(add_input(network, (4,)), (0,), (6,), (1,))
    layer.set_input(4, add_constant(network, 1.0, np.float32))
    _check(network, layer, "only allowed in mode FILL")
    layer.mode = trt.SampleMode.FILL
    assert shape_of(layer.get_output(0)) == (6,)
    layer.set_input(4, add_constant(network, 1, np.int32))
    _check(network, layer, "the fill value is INT32")


@pytest.mark.parametrize(
    ("data", "indices", "mode", "axis", "elementwise", "expected"),
    [
        ((5, 6), (2, 3), DEFAULT, 0, 0, (2, 3, 6)),
        ((5, 6), (), DEFAULT, 1, 0, (5,)),
        ((5, -1), (-1, 3), DEFAULT, 0, 0, (-1, 3, -1)),
        ((5, 6, 7), (5, 2), DEFAULT, 2, 1, (5, 6, 2)),
        ((5, 6), (4, 2), DEFAULT, 1, 1, "elementwise dimension 0 must be equal"),
        ((5, 6), (5, 2), DEFAULT, 0, 1, "axis must be 1 or more"),
        ((5, 6), (2,), DEFAULT, 2, 0, "axis 2 is out of range"),
        ((5, 6), (2,), DEFAULT, -1, 0, "axis -1 is out of range"),
        ((5, 6), (2,), DEFAULT, 0, 2, "0 or 1 elementwise"),
        ((1,) * 8, (2, 3), DEFAULT, 0, 0, "9 dimensions"),
        ((5, 6), (2, 6), ELEMENT, 0, 0, (2, 6)),
        ((5, 6), (9, 6), ELEMENT, 0, 0, (9, 6)),
        ((5, 6), (2, 7), ELEMENT, 0, 0, "reach beyond"),
        ((5, 6), (2,), ELEMENT, 0, 0, "the rank of the data"),
        ((5, 6, 7), (4, 2), ND, 0, 0, (4, 7)),
        ((5, 6, 7), (4, 3), ND, 0, 0, (4,)),
        ((-1, 6, 7), (5, 4, 1), ND, 0, 1, (5, 4, 7)),
        ((5, 6), (4, 3), ND, 0, 0, "must be 1 to 2"),
        ((5, 6), (4, -1), ND, 0, 0, "last length of indices must be known"),
        ((5, 6), (4, 2), ND, 0, 2, "2 elementwise dimensions do not fit"),
        ((), (2,), DEFAULT, 0, 0, "nothing to gather from a scalar"),
    ],
)
def test_gather(data, indices, mode, axis, elementwise, expected):
    network = new_network()
    layer = network.add_gather_v2(add_input(network, data), add_input(network, indices, trt.int32), mode)
    if layer is not None:
        layer.axis, layer.num_elementwise_dims = axis, elementwise
    _check(network, layer, expected)


def test_add_gather_takes_the_axis():
    network = new_network()
    layer = network.add_gather(add_input(network, (5, 6)), add_input(network, (2,), trt.int64), 1)
    assert (layer.axis, layer.mode, layer.num_elementwise_dims) == (1, DEFAULT, 0)
    assert shape_of(layer.get_output(0)) == (5, 2)


def test_constant():
    network = new_network()
    array = np.zeros((2, 3), np.float16)
    layer = network.add_constant((3, 2), array)
    assert shape_of(layer.get_output(0)) == (3, 2) and layer.get_output(0).dtype == trt.float16
    assert np.shares_memory(layer.weights, array)
    layer.shape = (6,)
    assert shape_of(layer.get_output(0)) == (6,)
    layer.weights = np.zeros(6, np.float32)
    assert layer.get_output(0).dtype == trt.float32
    assert shape_of(add_constant(network, 5)) == ()
    assert network.add_constant((4,), array) is None
    assert "6, does not fit the shape (4,)" in errors_of(network)[0]
    assert network.add_constant((-1,), array) is None


def test_fill():
    network = new_network()
    linspace = trt.FillOperation.LINSPACE
    layer = network.add_fill((5,), linspace)
    assert (layer.alpha, layer.beta, layer.to_type) == (0.0, 1.0, trt.float32)
    assert shape_of(layer.get_output(0)) == (5,)
    assert not layer.is_alpha_beta_int64()
    layer.alpha, layer.beta = 3, 2
    assert layer.is_alpha_beta_int64() and layer.alpha == 3
    flat = network.add_fill((2, 3), linspace, trt.int32)
    _check(network, flat, "needs inputs 1 and 2")
    flat.set_input(1, add_constant(network, 0, np.int32))
    _check(network, flat, "inputs 1 and 2 together")
    flat.set_input(2, add_constant(network, [3, 1], np.int32))
    assert shape_of(flat.get_output(0)) == (2, 3)
    flat.set_input(0, add_input(network, (2,), trt.int64))
    assert shape_of(flat.get_output(0)) == (-1, -1)
    flat.set_input(1, add_constant(network, 0, np.int64))
    _check(network, flat, "is INT64, but the output is INT32")
    _check(
        network,
        network.add_fill((5,), linspace, trt.float16),
        "makes no HALF",
    )
    uniform = network.add_fill((5, 5), trt.FillOperation.RANDOM_UNIFORM, trt.float16)
    assert shape_of(uniform.get_output(0)) == (5, 5)


def test_inputs_a_kind_does_not_have():
    network = new_network()
    x = add_input(network, (5,))
    layer = network.add_shuffle(x)
    layer.set_input(2, x)
    network.add_shape(x).set_input(1, x)
    assert [error.partition(": ")[2] for error in errors_of(network)] == [
        "there is no input 2; there are 2",
        "there is no input 1; there are 1",
    ]
    assert layer.num_inputs == 1


def test_gather_of_a_length_from_the_end():
    network = new_network()
    x = add_input(network, (-1, 6, 4))
    length = network.add_gather(network.add_shape(x).get_output(0), add_constant(network, [-2]), 0)
    layer = network.add_fill((), trt.FillOperation.RANDOM_UNIFORM)
    layer.set_input(
        0, network.add_concatenation([length.get_output(0), add_constant(network, [4])]).get_output(0)
    )
    assert shape_of(layer.get_output(0)) == (6, 4)


@pytest.mark.parametrize(
    ("dtype", "number"),
    [(trt.int64, float("nan")), (trt.int64, float("inf")), (trt.int64, 1e30), (trt.int32, 2**40)],
)
@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_fill_with_what_its_type_cannot_hold(name, dtype, number):
    network = new_network()
    layer = network.add_fill((3,), trt.FillOperation.LINSPACE, dtype)
    setattr(layer, name, number)
    with pytest.raises(ValueError):
        shape_of(layer.get_output(0))
    [error] = errors_of(network)
    assert f"{name} is {number}, which {dtype.name} cannot hold" in error


def test_fill_with_a_large_number_of_a_wide_type():
    network = new_network()
    layer = network.add_fill((3,), trt.FillOperation.LINSPACE, trt.float32)
    layer.alpha, layer.beta = 2**62, float("inf")
    assert shape_of(layer.get_output(0)) == (3,)


def test_nothing_beside_a_huge_length_is_not_listed():
    network = new_network()
    layer = network.add_slice(add_constant(network, [[1, 2], [3, 4]]), (0, 0), (0, 1), (1, 1))
    layer.mode, layer.shape = trt.SampleMode.WRAP, (0, 10**12)
    assert shape_of(layer.get_output(0)) == (0, 10**12)
    nothing = np.zeros(0, np.int64)
    assert shape_of(network.add_constant((0, 2**62, 2**62), nothing).get_output(0)) == (0, 2**62, 2**62)
