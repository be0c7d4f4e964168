"""The attributes that decide shapes, as JSON: one codec for each, the same for writing and strict reading."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from trtllm_ext.embedded.enums import (
    ActivationType,
    CollectiveOperation,
    CumulativeOperation,
    DataType,
    ElementWiseOperation,
    FillOperation,
    GatherMode,
    InterpolationMode,
    LayerType,
    LoopOutput,
    MatrixOperation,
    NativeEnum,
    PaddingMode,
    PoolingType,
    ReduceOperation,
    SampleMode,
    ScaleMode,
    ScatterMode,
    TopKOperation,
    UnaryOperation,
)
from trtllm_ext.embedded.rules.plugin import Signature
from trtllm_ext.embedded.rules.reading import as_int, as_list
from trtllm_ext.embedded.rules.weights import StoredWeights

_MAX_RANK = 8
_MAX_TEXT = 2**16
# Ranks of a group, and the highest number of one.
MAX_RANKS = 2**20


class Codec(NamedTuple):
    """How an attribute is written, and read back; `read` raises ValueError for what was never written."""

    write: Callable[[Any], Any]
    read: Callable[[Any], Any]


def _enum(kind: type[NativeEnum]) -> Codec:
    def read(data: Any) -> NativeEnum:
        if not isinstance(data, str) or data not in kind.__members__:
            raise ValueError(f"{data!r:.80} is no {kind.__name__}")
        return kind.__members__[data]

    return Codec(lambda member: member.name, read)


def _integer(low: int, high: int) -> Codec:
    return Codec(int, lambda data: as_int(data, low, high))


def _read_bool(data: Any) -> bool:
    if not isinstance(data, bool):
        raise ValueError(f"expected true or false, found {data!r:.80}")
    return data


def read_lengths(data: Any) -> tuple[int, ...]:
    """A list of at most 8 lengths or other 64-bit numbers. Raises ValueError for anything else."""
    return tuple(as_int(one, -(2**63), 2**63 - 1) for one in as_list(data, 0, _MAX_RANK))


def _read_number(data: Any) -> int | float:
    if type(data) is int:
        return as_int(data, -(2**127), 2**127)
    if not isinstance(data, float) or not math.isfinite(data):
        raise ValueError(f"expected a number, found {data!r:.80}")
    return data


def _optional(codec: Codec) -> Codec:
    return Codec(
        lambda value: None if value is None else codec.write(value),
        lambda data: None if data is None else codec.read(data),
    )


def _tuple_of(codec: Codec) -> Codec:
    def read(data: Any) -> tuple[Any, ...]:
        return tuple(codec.read(one) for one in as_list(data, 0, _MAX_RANK))

    return Codec(lambda values: [codec.write(value) for value in values], read)


def _write_number(value: float) -> int | float:
    # A number that is not finite decides no shape; what is written must be plain JSON.
    return value if math.isfinite(value) else 0.0


def _read_text(data: Any) -> str:
    if not isinstance(data, str) or len(data) > _MAX_TEXT:
        raise ValueError(f"expected a text of at most {_MAX_TEXT} characters, found {data!r:.80}")
    return data


def _read_ranks(data: Any) -> tuple[int, ...]:
    return tuple(as_int(one, 0, MAX_RANKS) for one in as_list(data, 1, MAX_RANKS))


def _read_weights(data: Any) -> StoredWeights:
    dtype, count = as_list(data, 2, 2)
    return StoredWeights(DATA_TYPE.read(dtype), as_int(count, 0, 2**63 - 1))


_BOOL = Codec(bool, _read_bool)
_DIMS = Codec(list, read_lengths)
_OPTIONAL_DIMS = _optional(_DIMS)
_MASK = _integer(0, 2**32 - 1)
_INT32 = _integer(-(2**31), 2**31 - 1)
_NUMBER = Codec(_write_number, _read_number)
DATA_TYPE = _enum(DataType)
LAYER_TYPE = _enum(LayerType)
_TEXT = Codec(str, _read_text)
_WEIGHTS = Codec(lambda weights: [weights.dtype.name, weights.size], _read_weights)
OUTPUT_TYPES = _tuple_of(_optional(DATA_TYPE))

_WINDOW = {
    "stride_nd": _DIMS,
    "pre_padding": _DIMS,
    "post_padding": _DIMS,
    "padding_mode": _enum(PaddingMode),
}
_KERNEL = _WINDOW | {
    "num_output_maps": _integer(-(2**63), 2**63 - 1),
    "kernel_size_nd": _DIMS,
    "dilation_nd": _DIMS,
    "num_groups": _integer(-(2**63), 2**63 - 1),
    "kernel": _WEIGHTS,
    "bias": _WEIGHTS,
}

# A constant is not here: everything known of it is written instead of the layer.
ATTRIBUTES: dict[LayerType, dict[str, Codec]] = {
    LayerType.MATRIX_MULTIPLY: {"op0": _enum(MatrixOperation), "op1": _enum(MatrixOperation)},
    LayerType.ELEMENTWISE: {"op": _enum(ElementWiseOperation)},
    LayerType.UNARY: {"op": _enum(UnaryOperation)},
    LayerType.ACTIVATION: {"type": _enum(ActivationType)},
    LayerType.REDUCE: {"op": _enum(ReduceOperation), "axes": _MASK, "keep_dims": _BOOL},
    LayerType.SOFTMAX: {"axes": _optional(_MASK)},
    LayerType.NORMALIZATION: {"axes": _MASK, "num_groups": _INT32},
    LayerType.CAST: {"to_type": DATA_TYPE},
    LayerType.IDENTITY: {},
    LayerType.QUANTIZE: {"axis": _INT32, "to_type": DATA_TYPE},
    LayerType.DEQUANTIZE: {"axis": _INT32, "to_type": DATA_TYPE},
    LayerType.SELECT: {},
    LayerType.CONCATENATION: {"axis": _optional(_INT32)},
    LayerType.SHAPE: {},
    LayerType.SHUFFLE: {
        "first_transpose": _OPTIONAL_DIMS,
        "reshape_dims": _OPTIONAL_DIMS,
        "second_transpose": _OPTIONAL_DIMS,
        "zero_is_placeholder": _BOOL,
    },
    LayerType.SLICE: {
        "start": _OPTIONAL_DIMS,
        "shape": _OPTIONAL_DIMS,
        "stride": _OPTIONAL_DIMS,
        "mode": _enum(SampleMode),
        "axes": _OPTIONAL_DIMS,
    },
    LayerType.GATHER: {"axis": _INT32, "num_elementwise_dims": _INT32, "mode": _enum(GatherMode)},
    LayerType.FILL: {
        "shape": _DIMS,
        "operation": _enum(FillOperation),
        "to_type": DATA_TYPE,
        "alpha": _NUMBER,
        "beta": _NUMBER,
    },
    LayerType.RECURRENCE: {},
    LayerType.ITERATOR: {"axis": _INT32},
    LayerType.LOOP_OUTPUT: {"kind": _enum(LoopOutput), "axis": _INT32},
    LayerType.CONDITIONAL_INPUT: {},
    LayerType.CONDITIONAL_OUTPUT: {},
    LayerType.CONVOLUTION: _KERNEL,
    LayerType.DECONVOLUTION: _KERNEL,
    LayerType.POOLING: _WINDOW
    | {"type": _enum(PoolingType), "window_size_nd": _DIMS, "blend_factor": _NUMBER},
    LayerType.PADDING: {"pre_padding_nd": _DIMS, "post_padding_nd": _DIMS},
    LayerType.SCALE: {
        "mode": _enum(ScaleMode),
        "shift": _WEIGHTS,
        "scale": _WEIGHTS,
        "power": _WEIGHTS,
        "channel_axis": _INT32,
    },
    LayerType.PARAMETRIC_RELU: {},
    LayerType.RESIZE: {
        "shape": _OPTIONAL_DIMS,
        "scales": _optional(_tuple_of(_NUMBER)),
        "resize_mode": _enum(InterpolationMode),
    },
    LayerType.EINSUM: {"equation": _TEXT},
    LayerType.ASSERTION: {"message": _TEXT},
    LayerType.TOPK: {"op": _enum(TopKOperation), "k": _INT32, "axes": _MASK, "indices_type": DATA_TYPE},
    LayerType.NON_ZERO: {"indices_type": DATA_TYPE},
    LayerType.SCATTER: {"axis": _INT32, "mode": _enum(ScatterMode)},
    LayerType.ONE_HOT: {"axis": _INT32},
    LayerType.CUMULATIVE: {"op": _enum(CumulativeOperation), "exclusive": _BOOL, "reverse": _BOOL},
    LayerType.REVERSE_SEQUENCE: {"batch_axis": _INT32, "sequence_axis": _INT32},
    LayerType.PLUGIN_V3: {"signature": Codec(Signature.to_json, Signature.from_json)},
    LayerType.SQUEEZE: {},
    LayerType.UNSQUEEZE: {},
    LayerType.DIST_COLLECTIVE: {
        "dist_collective_op": _enum(CollectiveOperation),
        "reduce_op": _enum(ReduceOperation),
        "groups": Codec(list, _read_ranks),
        "num_ranks": _INT32,
    },
}


def attributes_to_json(kind: LayerType, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a layer that decide shapes, in JSON's types."""
    written = {name: codec.write(attributes[name]) for name, codec in ATTRIBUTES[kind].items()}
    if "output_types" in attributes:
        written["output_types"] = OUTPUT_TYPES.write(attributes["output_types"])
    return written


def attributes_from_json(kind: LayerType, data: Any) -> dict[str, Any]:
    """The inverse of `attributes_to_json`. Raises ValueError for what it did not write."""
    if kind not in ATTRIBUTES:
        raise ValueError(f"{kind} is no kind that shapes are computed for")
    codecs = ATTRIBUTES[kind]
    if not isinstance(data, dict) or set(data) - {"output_types"} != set(codecs):
        raise ValueError(f"a {kind.name} has the attributes {sorted(codecs)}, found {data!r:.200}")
    attributes = {name: codec.read(data[name]) for name, codec in codecs.items()}
    if "output_types" in data:
        attributes["output_types"] = OUTPUT_TYPES.read(data["output_types"])
    return attributes
