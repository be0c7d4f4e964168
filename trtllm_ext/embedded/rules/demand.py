"""Which values a shape depends on, going against the direction of data."""

from collections.abc import Iterable, Mapping
from typing import Any

from trtllm_ext.embedded.enums import LayerType

# Their inputs from the given number on hold dimensions, so their values decide the shape of the output.
_DIMENSION_INPUTS: dict[LayerType, tuple[int, ...]] = {
    LayerType.SHUFFLE: (1,),
    LayerType.SLICE: (1, 2, 3, 5),
    LayerType.FILL: (0,),
    LayerType.RESIZE: (1,),
    LayerType.ASSERTION: (0,),
    LayerType.LOOP_OUTPUT: (1,),
    LayerType.TOPK: (1,),
    LayerType.ONE_HOT: (2,),
    LayerType.CUMULATIVE: (1,),
    LayerType.SQUEEZE: (1,),
    LayerType.UNSQUEEZE: (1,),
}

# The value of an output follows from the values of all inputs.
_CARRIES_VALUES = frozenset(
    {
        LayerType.ELEMENTWISE,
        LayerType.UNARY,
        LayerType.ACTIVATION,
        LayerType.SELECT,
        LayerType.CAST,
        LayerType.IDENTITY,
        LayerType.CONCATENATION,
        LayerType.SHUFFLE,
        LayerType.SLICE,
        LayerType.GATHER,
        LayerType.REDUCE,
        LayerType.FILL,
        LayerType.CONDITIONAL_INPUT,
        LayerType.CONDITIONAL_OUTPUT,
        LayerType.SQUEEZE,
        LayerType.UNSQUEEZE,
    }
)


def dimension_inputs(kind: LayerType, attributes: Mapping[str, Any]) -> Iterable[int]:
    """The inputs of a layer whose values decide the shape of its outputs."""
    if kind == LayerType.PLUGIN_V3:
        numbers: range = attributes["signature"].shape_input_numbers
        return numbers
    return _DIMENSION_INPUTS.get(kind, ())


def carries_values(kind: LayerType) -> bool:
    """Whether the values of the outputs of a layer follow from the values of all its inputs."""
    return kind in _CARRIES_VALUES


def value_inputs(kind: LayerType, attributes: Mapping[str, Any], count: int) -> Iterable[int]:
    """The inputs of a layer, out of `count`, whose values decide the values of its outputs."""
    return range(count) if carries_values(kind) else dimension_inputs(kind, attributes)
