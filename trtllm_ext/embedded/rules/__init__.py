"""What TensorRT infers of a layer's outputs: one rule for each layer kind.

The same rule runs while a network is written down, when lengths are -1 and values partly known, and before a run,
when everything is exact. Whatever a rule says is known stays true for every input that the network accepts.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trtllm_ext.embedded.enums import DataType, LayerType
from trtllm_ext.embedded.rules import (
    assertion,
    collective,
    control,
    einsum,
    elementwise,
    movement,
    plugin,
    quantization,
    reduction,
    resize,
    scaling,
    selection,
    sequences,
    slicing,
    source,
    spatial,
    unit_axes,
)
from trtllm_ext.embedded.rules.known import (
    FLOATS,
    INDICES,
    MAX_HOST_VOLUME,
    HostValue,
    Known,
    OperandError,
    RuleError,
)

__all__ = [
    "MAX_HOST_VOLUME",
    "HostValue",
    "Known",
    "OperandError",
    "RuleError",
    "infer",
]

_MANY = 10_000_000
_RULES: dict[LayerType, tuple[Callable[..., list[Known]], int, int]] = {
    # kind: rule, fewest and most inputs; those beyond the fewest are optional
    LayerType.CONSTANT: (source.constant, 0, 0),
    LayerType.FILL: (source.fill, 0, 3),
    LayerType.ELEMENTWISE: (elementwise.elementwise, 2, 2),
    LayerType.UNARY: (elementwise.unary, 1, 1),
    LayerType.ACTIVATION: (elementwise.activation, 1, 1),
    LayerType.SELECT: (elementwise.select, 3, 3),
    LayerType.CAST: (elementwise.cast, 1, 1),
    LayerType.IDENTITY: (elementwise.identity, 1, 1),
    LayerType.QUANTIZE: (quantization.quantize, 2, 3),
    LayerType.DEQUANTIZE: (quantization.dequantize, 2, 3),
    LayerType.SHAPE: (movement.shape, 1, 1),
    LayerType.CONCATENATION: (movement.concatenation, 1, _MANY),
    LayerType.SHUFFLE: (movement.shuffle, 1, 2),
    LayerType.SLICE: (slicing.slice_, 1, 6),
    LayerType.GATHER: (slicing.gather, 2, 2),
    LayerType.REDUCE: (reduction.reduce, 1, 1),
    LayerType.SOFTMAX: (reduction.softmax, 1, 1),
    LayerType.NORMALIZATION: (reduction.normalization, 3, 3),
    LayerType.RECURRENCE: (control.recurrence, 1, 2),
    LayerType.ITERATOR: (control.iterator, 1, 1),
    LayerType.TRIP_LIMIT: (control.trip_limit, 1, 1),
    LayerType.LOOP_OUTPUT: (control.loop_output, 1, 2),
    LayerType.CONDITION: (control.condition, 1, 1),
    LayerType.CONDITIONAL_INPUT: (control.conditional_input, 1, 1),
    LayerType.CONDITIONAL_OUTPUT: (control.conditional_output, 2, 2),
    LayerType.PLUGIN_V3: (plugin.plugin, 0, _MANY),
    LayerType.MATRIX_MULTIPLY: (reduction.matrix_multiply, 2, 2),
    LayerType.CONVOLUTION: (spatial.convolution, 1, 3),
    LayerType.DECONVOLUTION: (spatial.deconvolution, 1, 3),
    LayerType.POOLING: (spatial.pooling, 1, 1),
    LayerType.PADDING: (spatial.padding, 1, 1),
    LayerType.SCALE: (scaling.scale, 1, 1),
    LayerType.PARAMETRIC_RELU: (scaling.parametric_relu, 2, 2),
    LayerType.RESIZE: (resize.resize, 1, 2),
    LayerType.EINSUM: (einsum.einsum, 1, _MANY),
    LayerType.ASSERTION: (assertion.assertion, 1, 1),
    LayerType.TOPK: (selection.topk, 1, 2),
    LayerType.NON_ZERO: (selection.non_zero, 1, 1),
    LayerType.SCATTER: (selection.scatter, 3, 3),
    LayerType.ONE_HOT: (selection.one_hot, 3, 3),
    LayerType.CUMULATIVE: (sequences.cumulative, 2, 2),
    LayerType.REVERSE_SEQUENCE: (sequences.reverse_sequence, 2, 2),
    LayerType.SQUEEZE: (unit_axes.squeeze, 2, 2),
    LayerType.UNSQUEEZE: (unit_axes.unsqueeze, 2, 2),
    LayerType.DIST_COLLECTIVE: (collective.dist_collective, 1, 1),
}

# The inputs of a concatenation beyond the first are not optional once they are there.
_NO_GAPS = frozenset({LayerType.CONCATENATION})


def infer(
    kind: LayerType, attributes: Mapping[str, Any], inputs: Sequence[Known | None], strongly_typed: bool
) -> list[Known]:
    """What is known of the outputs of a layer.

    attributes: by TensorRT's property names, in Python's types (Dims as tuples); `output_types`, if there, holds
    what `set_output_type` asked for, by output. inputs: None for an optional input that is not set.

    Raises RuleError with what does not fit; OperandError if no change of attributes would help.
    """
    rule, fewest, most = _RULES[kind]
    if len(inputs) > most:
        raise OperandError(f"there are {len(inputs)} inputs; a {kind.name} takes {most} at most")
    for number in range(max(fewest, len(inputs)) if kind in _NO_GAPS else fewest):
        if number >= len(inputs) or inputs[number] is None:
            raise OperandError(f"input {number} is missing")
    outputs = rule(attributes, inputs, strongly_typed)
    wanted = attributes.get("output_types")
    if wanted is None or strongly_typed:
        return outputs
    return [
        known if dtype is None else _retyped(kind, known, dtype)
        for known, dtype in zip(outputs, wanted, strict=True)
    ]


def _retyped(kind: LayerType, known: Known, dtype: DataType) -> Known:
    """`known` with the output type that was set on the layer."""
    families = (FLOATS, INDICES, frozenset({DataType.BOOL}))
    same = known.dtype == dtype or any(known.dtype in family and dtype in family for family in families)
    if not same and kind not in (LayerType.CAST, LayerType.IDENTITY):
        raise RuleError(
            f"output type {dtype.name} was set on a layer that computes {known.dtype.name}. Set a type of the same "
            "family, or add a cast."
        )
    return elementwise.converted(known, dtype)
