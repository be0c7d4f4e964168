"""The records of the operations: whole, of one mind with the library's names, and strict about fields."""

import pytest

from trtllm_ext.checkpoint import ACTIVATIONS
from trtllm_ext.errors import GraphError
from trtllm_ext.plugin.c_interface import Activation, Norm, Type
from trtllm_ext.plugin.operations import BY_KEY, OPERATIONS
from trtllm_ext.plugin.residual_norm import RESIDUAL_NORM

BUDGET_S = 2

GIVEN = {"type": Type.FLOAT16, "norm": Norm.RMS_NORM}


def test_the_identities():
    assert {name: each.plugin for name, each in OPERATIONS.items()} == {
        "feed_forward": "FeedForward",
        "gated_activation": "GatedActivation",
        "residual_norm": "ResidualNorm",
    }
    assert BY_KEY["ResidualNorm", "1", "trtllm_ext"] is RESIDUAL_NORM


def test_every_activation_of_the_library_has_a_number():
    assert {each.name.lower() for each in Activation} == set(ACTIVATIONS)


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_a_record_is_whole(operation):
    names = [field.name for field in operation.fields]
    assert len(names) == len(set(names)) and names[0] == "type"
    for operand in (*operation.inputs, *operation.outputs):
        assert operand.type in (*names, "float32")
        assert {operand.when, operand.unless} - {None} <= set(names)
    assert all(field.doc and field.doc[-1] != "." for field in operation.fields)
    assert all(Type[name.upper()] for name in operation.types)
    assert operation.inputs[0].when is None


def test_defaults_fill_what_is_not_given():
    fields = RESIDUAL_NORM.complete(GIVEN)
    assert list(fields) == [field.name for field in RESIDUAL_NORM.fields]
    assert (fields["has_sum"], fields["has_residual"], fields["eps"]) == (1, 0, 0.0)
    assert [each.name for each in RESIDUAL_NORM.inputs_of(fields)] == ["x"]
    assert [each.name for each in RESIDUAL_NORM.outputs_of(fields)] == ["sum", "normed"]
    quantized = RESIDUAL_NORM.complete({**GIVEN, "quantized_type": Type.INT8, "has_weight": 1, "has_sum": 0})
    assert [each.name for each in RESIDUAL_NORM.inputs_of(quantized)] == ["x", "weight"]
    assert [each.name for each in RESIDUAL_NORM.outputs_of(quantized)] == ["quantized", "scales"]
    alone = RESIDUAL_NORM.complete({**GIVEN, "norm": Norm.NO_NORM})
    assert [each.name for each in RESIDUAL_NORM.outputs_of(alone)] == ["sum"]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"type": 2}, "ResidualNorm needs its field 'norm'"),
        ({**GIVEN, "epsilon": 1e-5}, "ResidualNorm has no field 'epsilon'"),
        (
            {**GIVEN, "norm": 3},
            r"norm=3 is not taken; it is an int32, from 0 to 2 \(0 NO_NORM, 1 LAYER_NORM, 2 RMS",
        ),
        ({**GIVEN, "has_bias": 0.5}, "has_bias=0.5 is not taken"),
        ({**GIVEN, "eps": -1.0}, "eps=-1.0 is not taken; it is a float32, from 0:"),
        ({**GIVEN, "eps": float("nan")}, "eps=nan is not taken"),
    ],
)
def test_what_a_field_does_not_take_is_refused(given, text):
    with pytest.raises(GraphError, match=text):
        RESIDUAL_NORM.complete(given)
