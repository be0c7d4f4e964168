"""Lists of JSON as arrays: of one kind of elements, which is never made into another."""

import numpy as np
import pytest

from trtllm_ext.errors import InputError
from trtllm_ext.serve.runner import TensorSpec
from trtllm_ext.serve.tensors import check_given, check_outputs, from_list, take_named

BUDGET_S = 1


def read(datatype, data, shape):
    return from_list(TensorSpec(name="x", datatype=datatype, shape=(-1,) * len(shape)), shape, data)


@pytest.mark.parametrize(
    ("datatype", "data", "told"),
    [
        ("INT64", [True, 5], "integers, got True"),
        ("INT32", [5, 6, False], "integers, got False"),
        ("FP32", [1, True], "numbers, got True"),
        ("FP16", [[1.5], [False]], "numbers, got False"),
        ("FP32", [1, None], "numbers, got None"),
        ("FP32", [[1.5, 2], [3, "4"]], "numbers, got '4'"),
        ("INT8", [1, 2.0], r"integers, got 2\.0"),
        ("BOOL", [True, 0], "true and false, got 0"),
        ("BOOL", [True, None], "true and false, got None"),
    ],
)
def test_the_first_element_of_another_kind_is_told(datatype, data, told):
    with pytest.raises(InputError, match=told):
        read(datatype, data, np.shape(data))


def test_a_name_is_told_whole_up_to_80_characters():
    spec = TensorSpec(name="input_ids", datatype="INT64", shape=(-1,))
    for name, told in (
        ("hidden_states_before", "'hidden_states_before'"),
        ("x" * 100, f"'{'x' * 76}..."),
    ):
        with pytest.raises(InputError, match=rf"^unknown input {told}\. "):
            take_named([(name, None)], {"input_ids": spec})
        with pytest.raises(InputError, match=rf"^unknown output {told}\. "):
            check_outputs([name], {"input_ids": spec})
        with pytest.raises(InputError, match=rf"has datatype {told}; expected 'INT64'"):
            check_given(spec, name, [1])
    with pytest.raises(InputError, match=r"has shape \[1, 1, 1, 1, 1, 1, 1, 1, 1\]; expected"):
        check_given(spec, "INT64", [1] * 100)


def test_one_kind_is_taken_flat_or_nested():
    for data, datatype in (
        ([True, False], "BOOL"),
        ([1, -2], "INT8"),
        ([1, 2.5], "FP32"),
        ([2**63 - 1, 0], "INT64"),
    ):
        expected = np.array(data, read(datatype, data, (2,)).dtype)
        for shape in ((2,), (1, 2), (2, 1)):
            for given in (data, expected.reshape(shape).tolist()):
                np.testing.assert_array_equal(read(datatype, given, shape), expected.reshape(shape))
    for data in ([2**63, 0], [2**63, -1]):
        with pytest.raises(InputError, match="INT64 holds"):
            read("INT64", data, (2,))
    assert read("FP32", [], (0, 4)).shape == (0, 4)
