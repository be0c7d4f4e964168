"""The records of a plan's header. Each is read from one JSON object by a function that refuses anything else."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trtllm_ext.embedded.enums import WeightsRole
from trtllm_ext.embedded.plan.strict_json import Fields
from trtllm_ext.embedded.types import Dims, volume

# Bytes of an element by the number that ONNX gives its type (TensorProto.DataType).
ONNX_ITEM_BYTES = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2, 16: 2, 17: 1}

# Number of the block of weights that the plan does not have.
STRIPPED = -1

# (min, opt, max)
Range = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class TensorRecord:
    """An input or output of the engine. `shape` has -1 where a length is only known at run time."""

    name: str
    is_input: bool
    dtype: str
    shape: tuple[int, ...]
    # Its value, not only its shape, decides about the shape of some output.
    is_shape_input: bool = False
    # Its value is asked for like that of a shape.
    is_shape_output: bool = False

    def to_json(self) -> dict[str, Any]:
        """The entry of this tensor."""
        return {
            "name": self.name,
            "mode": "input" if self.is_input else "output",
            "dtype": self.dtype,
            "shape": list(self.shape),
            "shape_input": self.is_shape_input,
            "shape_output": self.is_shape_output,
        }


@dataclass(frozen=True, kw_only=True)
class ProfileRecord:
    """An optimization profile: ranges of every input's shape, and of the values of shape inputs."""

    shapes: Mapping[str, Range]
    values: Mapping[str, Range]


@dataclass(frozen=True, kw_only=True)
class WeightRecord:
    """One block of weights; `offset` counts from the start of the weights."""

    offset: int
    nbytes: int


@dataclass(frozen=True, kw_only=True)
class SegmentWeight:
    """An initializer of a segment: its name, type and shape there, and the number of the block with its bytes.

    `is_folded`: something is computed from it alone (a cast, say), so whoever prepares the segment may do that once.
    The block is STRIPPED if the plan has no bytes for it, and a refit must bring them.
    """

    name: str
    block: int
    onnx_type: int
    shape: tuple[int, ...]
    is_folded: bool

    @property
    def nbytes(self) -> int:
        """Bytes that the initializer takes."""
        return ONNX_ITEM_BYTES[self.onnx_type] * volume(self.shape)


@dataclass(frozen=True, kw_only=True)
class RefitRecord:
    """Weights that can be exchanged: whose they are, their own name if they have one, and where they are used."""

    layer: str
    role: str
    name: str
    segment: int
    weight: str


@dataclass(frozen=True, kw_only=True)
class SegmentRecord:
    """One ONNX model without its weights; `offset` counts from the start of the segments."""

    offset: int
    nbytes: int
    weights: tuple[SegmentWeight, ...]


def read_tensor(fields: Fields) -> TensorRecord:
    """An entry of the table of inputs and outputs."""
    mode = fields.text("mode")
    if mode not in ("input", "output"):
        fields.refuse("mode", mode, '"input" or "output"')
    shape = fields.integers("shape", low=-1)
    if len(shape) > Dims.MAX_DIMS:
        fields.refuse("shape", list(shape), f"a list of at most {Dims.MAX_DIMS} lengths")
    is_shape_output = fields.flag("shape_output")
    if is_shape_output and mode == "input":
        fields.refuse("shape_output", True, "false for an input")
    return TensorRecord(
        name=fields.text("name"),
        is_input=mode == "input",
        dtype=fields.text("dtype"),
        shape=shape,
        is_shape_input=fields.flag("shape_input"),
        is_shape_output=is_shape_output,
    )


def read_profile(fields: Fields) -> ProfileRecord:
    """An optimization profile."""
    return ProfileRecord(
        shapes=_read_ranges(fields, "shapes", 0), values=_read_ranges(fields, "values", -(2**63))
    )


def _read_ranges(fields: Fields, key: str, low: int) -> dict[str, Range]:
    entries = fields.records(
        key,
        lambda entry: (
            entry.text("name"),
            (entry.integers("min", low), entry.integers("opt", low), entry.integers("max", low)),
        ),
    )
    ranges = dict(entries)
    if len(ranges) != len(entries):
        fields.refuse(key, [name for name, _ in entries], "one entry a tensor")
    return ranges


def read_segment(fields: Fields) -> SegmentRecord:
    """An entry of the table of segments."""
    return SegmentRecord(
        offset=fields.integer("offset"),
        nbytes=fields.integer("bytes"),
        weights=fields.records("weights", _read_segment_weight),
    )


def _read_segment_weight(fields: Fields) -> SegmentWeight:
    onnx_type = fields.integer("type")
    if onnx_type not in ONNX_ITEM_BYTES:
        fields.refuse("type", onnx_type, f"one of {sorted(ONNX_ITEM_BYTES)}")
    return SegmentWeight(
        name=fields.text("name"),
        block=fields.integer("block", low=STRIPPED),
        onnx_type=onnx_type,
        shape=fields.integers("shape"),
        is_folded=fields.flag("folded"),
    )


def read_refit(fields: Fields) -> RefitRecord:
    """An entry of the table of exchangeable weights."""
    role = fields.text("role")
    if role not in WeightsRole.__members__:
        fields.refuse("role", role, f"one of {', '.join(WeightsRole.__members__)}")
    return RefitRecord(
        layer=fields.text("layer"),
        role=role,
        name=fields.text("name"),
        segment=fields.integer("segment"),
        weight=fields.text("weight"),
    )


def read_weight(fields: Fields) -> WeightRecord:
    """An entry of the table of weights."""
    return WeightRecord(offset=fields.integer("offset"), nbytes=fields.integer("bytes", low=1))
