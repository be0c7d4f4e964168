"""The header of a plan: what an engine is, as records that check themselves when they are read."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trtllm_ext.embedded.enums import ProfilingVerbosity
from trtllm_ext.embedded.fusion import FUSION_LEVELS, FusionLevel
from trtllm_ext.embedded.plan import strict_json
from trtllm_ext.embedded.plan.collectives import CollectiveInfo, CollectiveStep, distinct_collectives
from trtllm_ext.embedded.plan.layout import WEIGHT_ALIGNMENT, Layout, align
from trtllm_ext.embedded.plan.plugins import PluginRecord, read_plugin
from trtllm_ext.embedded.plan.records import (
    STRIPPED,
    ProfileRecord,
    Range,
    RefitRecord,
    SegmentRecord,
    TensorRecord,
    WeightRecord,
    read_profile,
    read_refit,
    read_segment,
    read_tensor,
    read_weight,
)
from trtllm_ext.embedded.plan.steps import Step, check_flow, collective_steps, step_from_json
from trtllm_ext.embedded.plan.strict_json import Fields
from trtllm_ext.errors import EngineError


@dataclass(frozen=True, kw_only=True)
class Header:
    """Everything about an engine but its models and weights.

    layers: for the inspector, one JSON object a layer with at least `Name`; none at verbosity NONE.
    shape_program: how shapes of outputs follow from those of inputs, as JSON.
    fusion_level: how far ONNX Runtime may rewrite the models.
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
    plugins: tuple[PluginRecord, ...] = ()
    refit: tuple[RefitRecord, ...] = ()
    is_refittable: bool = False
    is_streamable: bool = False
    # Tensors in the middle of the network that a run can show; outputs may be among them.
    debug: tuple[TensorRecord, ...] = ()
    fusion_level: FusionLevel = "all"

    @property
    def collectives(self) -> tuple[CollectiveInfo, ...]:
        """What the engine's ranks do together, each kind once."""
        return distinct_collectives(self.collective_steps)

    @property
    def collective_steps(self) -> tuple[CollectiveStep, ...]:
        """Every collective, in the order in which they run."""
        return tuple(collective_steps(self.steps))

    def to_json(self) -> bytes:
        """The header as it stands in a plan."""
        return strict_json.dumps(
            {
                "generator": self.generator,
                "name": self.name,
                "strongly_typed": self.is_strongly_typed,
                "verbosity": self.verbosity,
                "fusion_level": self.fusion_level,
                "tensors": [tensor.to_json() for tensor in self.tensors],
                "profiles": [
                    {"shapes": _ranges_to_json(profile.shapes), "values": _ranges_to_json(profile.values)}
                    for profile in self.profiles
                ],
                "shape_program": self.shape_program,
                "num_layers": self.num_layers,
                "layers": list(self.layers),
                "plugins": [plugin.to_json() for plugin in self.plugins],
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
                "refit": [asdict(record) for record in self.refit],
                "refittable": self.is_refittable,
                "streamable": self.is_streamable,
                "debug": [tensor.to_json() for tensor in self.debug],
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
                fusion_level=_fusion_level(fields.text("fusion_level")),
                tensors=fields.records("tensors", read_tensor),
                profiles=fields.records("profiles", read_profile),
                shape_program=fields.take("shape_program"),
                num_layers=fields.integer("num_layers"),
                layers=_named_objects(fields, "layers", "Name"),
                plugins=fields.records("plugins", read_plugin),
                steps=step_from_json(fields.take("steps")),
                segments=fields.records("segments", read_segment),
                weights=fields.records("weights", read_weight),
                refit=fields.records("refit", read_refit),
                is_refittable=fields.flag("refittable"),
                is_streamable=fields.flag("streamable"),
                debug=fields.records("debug", read_tensor),
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
        inputs = {tensor.name: tensor for tensor in self.tensors if tensor.is_input}
        for index, profile in enumerate(self.profiles):
            _check_profile(index, profile, inputs)
        if not self.profiles:
            raise EngineError("the engine's header has no optimization profile.")
        self._check_tables(layout)
        outputs = set(names) - set(inputs)
        self._check_debug()
        made = outputs.union(tensor.name for tensor in self.debug if tensor.name not in inputs)
        check_flow(self.steps, set(inputs), made, len(self.segments), len(self.plugins))

    def _check_debug(self) -> None:
        dtypes = {tensor.name: tensor.dtype for tensor in self.tensors}
        names = {tensor.name for tensor in self.debug}
        if len(names) != len(self.debug):
            raise EngineError("the engine's header lists a debug tensor twice.")
        for tensor in self.debug:
            if tensor.is_input or dtypes.get(tensor.name, tensor.dtype) != tensor.dtype:
                raise EngineError(
                    f"the engine's header contradicts itself about the debug tensor {tensor.name!r}."
                )

    def _check_tables(self, layout: Layout) -> None:
        refittable = {(record.segment, record.weight) for record in self.refit}
        there = {
            (index, weight.name) for index, segment in enumerate(self.segments) for weight in segment.weights
        }
        if refittable and not self.is_refittable:
            raise EngineError("the engine's header lets weights be exchanged, and says that none can be.")
        if not refittable <= there:
            raise EngineError("the engine's header lets weights be exchanged that no segment has.")
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
                if weight.block == STRIPPED and (index, weight.name) in refittable:
                    continue
                if (
                    not 0 <= weight.block < len(self.weights)
                    or weight.nbytes != self.weights[weight.block].nbytes
                ):
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


def _fusion_level(text: str) -> FusionLevel:
    for level in FUSION_LEVELS:
        if level == text:
            return level
    raise EngineError(
        f"the engine's header has {text!r} as fusion level; there are {', '.join(FUSION_LEVELS)}."
    )


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
