"""The header of a plan: what an engine is, as records that check themselves when they are read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trtllm_ext.embedded.enums import ProfilingVerbosity
from trtllm_ext.embedded.plan import strict_json
from trtllm_ext.embedded.plan.layout import WEIGHT_ALIGNMENT, Layout, align
from trtllm_ext.embedded.plan.steps import Step, check_flow, step_from_json
from trtllm_ext.embedded.plan.strict_json import Fields
from trtllm_ext.embedded.types import Dims, volume
from trtllm_ext.errors import EngineError

# Bytes of an element by the number that ONNX gives its type (TensorProto.DataType).
ONNX_ITEM_BYTES = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2, 16: 2, 17: 1}

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
class SegmentRecord:
    """One ONNX model without its weights; `offset` counts from the start of the segments."""

    offset: int
    nbytes: int
    weights: tuple[SegmentWeight, ...]


@dataclass(frozen=True, kw_only=True)
class Header:
    """Everything about an engine but its models and weights.

    layers: for the inspector, one JSON object a layer with at least `Name`; none at verbosity NONE.
    shape_program: how shapes of outputs follow from those of inputs, as JSON.
    """

    generator: str
    name: str
    is_strongly_typed: bool
    verbosity: str
    tensors: tuple[TensorRecord, ...]
    profiles: tuple[ProfileRecord, ...]
    shape_program: Any
    num_layers: int
    layers: tuple[Mapping[str, Any], ...]
    steps: Step
    segments: tuple[SegmentRecord, ...] = ()
    weights: tuple[WeightRecord, ...] = ()
    plugins: tuple[Mapping[str, Any], ...] = field(default=())

    def to_json(self) -> bytes:
        """The header as it stands in a plan."""
        return strict_json.dumps(
            {
                "generator": self.generator,
                "name": self.name,
                "strongly_typed": self.is_strongly_typed,
                "verbosity": self.verbosity,
                "tensors": [
                    {
                        "name": tensor.name,
                        "mode": "input" if tensor.is_input else "output",
                        "dtype": tensor.dtype,
                        "shape": list(tensor.shape),
                        "shape_input": tensor.is_shape_input,
                    }
                    for tensor in self.tensors
                ],
                "profiles": [
                    {"shapes": _ranges_to_json(profile.shapes), "values": _ranges_to_json(profile.values)}
                    for profile in self.profiles
                ],
                "shape_program": self.shape_program,
                "num_layers": self.num_layers,
                "layers": list(self.layers),
                "plugins": list(self.plugins),
                "steps": self.steps.to_json(),
                "segments": [
                    {
                        "offset": segment.offset,
                        "bytes": segment.nbytes,
                        "weights": [
                            {
                                "name": weight.name,
                                "block": weight.block,
                                "type": weight.onnx_type,
                                "shape": list(weight.shape),
                                "folded": weight.is_folded,
                            }
                            for weight in segment.weights
                        ],
                    }
                    for segment in self.segments
                ],
                "weights": [{"offset": weight.offset, "bytes": weight.nbytes} for weight in self.weights],
            }
        )

    @classmethod
    def from_json(cls, text: bytes, layout: Layout) -> "Header":
        """Read a header and check it against itself and against the lengths in `layout`.

        Raises EngineError naming what is missing, unknown, mistyped or contradictory.
        """
        with Fields(strict_json.loads(text), "header") as fields:
            header = cls(
                generator=fields.text("generator"),
                name=fields.text("name"),
                is_strongly_typed=fields.flag("strongly_typed"),
                verbosity=fields.text("verbosity"),
                tensors=fields.records("tensors", _read_tensor),
                profiles=fields.records("profiles", _read_profile),
                shape_program=fields.take("shape_program"),
                num_layers=fields.integer("num_layers"),
                layers=_named_objects(fields, "layers", "Name"),
                plugins=_named_objects(fields, "plugins", "name"),
                steps=step_from_json(fields.take("steps")),
                segments=fields.records("segments", _read_segment),
                weights=fields.records("weights", _read_weight),
            )
        header._check(layout)
        return header

    def _check(self, layout: Layout) -> None:
        names = [tensor.name for tensor in self.tensors]
        if len(set(names)) != len(names):
            raise EngineError("the engine's header lists a tensor twice.")
        if self.verbosity not in ProfilingVerbosity.__members__:
            raise EngineError(
                f"the engine's header has {self.verbosity!r} as verbosity; there are "
                f"{', '.join(ProfilingVerbosity.__members__)}."
            )
        if self.plugins:
            raise EngineError(
                f"the engine needs plugins ({', '.join(str(plugin.get('name')) for plugin in self.plugins)}), "
                "which this version of trtllm_ext cannot run."
            )
        inputs = {tensor.name: tensor for tensor in self.tensors if tensor.is_input}
        for index, profile in enumerate(self.profiles):
            _check_profile(index, profile, inputs)
        if not self.profiles:
            raise EngineError("the engine's header has no optimization profile.")
        self._check_tables(layout)
        outputs = set(names) - set(inputs)
        check_flow(self.steps, set(inputs), outputs, len(self.segments))

    def _check_tables(self, layout: Layout) -> None:
        end = 0
        for index, segment in enumerate(self.segments):
            if segment.offset != end:
                raise EngineError(
                    f"segment {index} of the engine does not start where the one before it ends."
                )
            end += segment.nbytes
            if len({weight.name for weight in segment.weights}) != len(segment.weights):
                raise EngineError(f"segment {index} of the engine lists a weight twice.")
            for weight in segment.weights:
                if weight.block >= len(self.weights) or weight.nbytes != self.weights[weight.block].nbytes:
                    raise EngineError(
                        f"segment {index} of the engine uses weights {weight.block} as {weight.name!r} of shape "
                        f"{weight.shape}, which they are not."
                    )
        if end != layout.segments_bytes:
            raise EngineError("the segments of the engine do not fill the space that they have.")
        end = 0
        for index, block in enumerate(self.weights):
            if block.offset != align(end, WEIGHT_ALIGNMENT):
                raise EngineError(
                    f"weights {index} of the engine do not start where the ones before them end."
                )
            end = block.offset + block.nbytes
        if end != layout.weights_bytes:
            raise EngineError("the weights of the engine do not fill the space that they have.")


def _ranges_to_json(ranges: Mapping[str, Range]) -> list[dict[str, Any]]:
    return [
        {"name": name, "min": list(low), "opt": list(opt), "max": list(high)}
        for name, (low, opt, high) in ranges.items()
    ]


def _named_objects(fields: Fields, key: str, name: str) -> tuple[Mapping[str, Any], ...]:
    objects = fields.sequence(key)
    for value in objects:
        if not isinstance(value, dict) or not isinstance(value.get(name), str):
            fields.refuse(key, value, f"objects with {name!r}")
    return tuple(objects)


def _read_tensor(fields: Fields) -> TensorRecord:
    mode = fields.text("mode")
    if mode not in ("input", "output"):
        fields.refuse("mode", mode, '"input" or "output"')
    shape = fields.integers("shape", low=-1)
    if len(shape) > Dims.MAX_DIMS:
        fields.refuse("shape", list(shape), f"a list of at most {Dims.MAX_DIMS} lengths")
    return TensorRecord(
        name=fields.text("name"),
        is_input=mode == "input",
        dtype=fields.text("dtype"),
        shape=shape,
        is_shape_input=fields.flag("shape_input"),
    )


def _read_profile(fields: Fields) -> ProfileRecord:
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


def _check_profile(index: int, profile: ProfileRecord, inputs: Mapping[str, TensorRecord]) -> None:
    if set(profile.shapes) != set(inputs):
        raise EngineError(f"profile {index} of the engine does not cover exactly its inputs.")
    shape_inputs = {name for name, tensor in inputs.items() if tensor.is_shape_input}
    if set(profile.values) != shape_inputs:
        raise EngineError(
            f"profile {index} of the engine does not cover exactly the values of its shape inputs."
        )
    for name, (low, opt, high) in [*profile.shapes.items(), *profile.values.items()]:
        if not len(low) == len(opt) == len(high) or not all(
            a <= b <= c for a, b, c in zip(low, opt, high, strict=True)
        ):
            raise EngineError(f"profile {index} of the engine has no proper min <= opt <= max for {name!r}.")
    for name, (low, _, high) in profile.shapes.items():
        shape = inputs[name].shape
        fits = len(shape) == len(low) and all(
            length in (-1, a) and (length == -1 or a == b)
            for length, a, b in zip(shape, low, high, strict=True)
        )
        if not fits:
            raise EngineError(f"profile {index} of the engine does not fit the shape {shape} of {name!r}.")


def _read_segment(fields: Fields) -> SegmentRecord:
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
        block=fields.integer("block"),
        onnx_type=onnx_type,
        shape=fields.integers("shape"),
        is_folded=fields.flag("folded"),
    )


def _read_weight(fields: Fields) -> WeightRecord:
    return WeightRecord(offset=fields.integer("offset"), nbytes=fields.integer("bytes", low=1))
