"""The ONNX segments of a plan about to be written: models, weights, and which of those can be exchanged."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from trtllm_ext.embedded.fusion import FusionLevel
from trtllm_ext.embedded.plan import STRIPPED, OnnxStep, RefitRecord, SegmentRecord, SegmentWeight
from trtllm_ext.embedded.plan.blocks import Bytes, WeightBlocks
from trtllm_ext.embedded.refittable import RefittableWeights
from trtllm_ext.embedded.running.sessions import SharedWeight, open_session
from trtllm_ext.embedded.same_segments import SameSegments
from trtllm_ext.errors import BuildError, EngineError

# What the lowering widens is new memory for each use, and not larger than that.
_SMALL_BYTES = 1 << 20

# Milliseconds that it took to prepare each model that this process has tried, by its digest and fusion level: a
# process that builds several ranks has the same models for all of them, and what their weights hold decides nothing.
_TRIED: dict[tuple[bytes, FusionLevel], float] = {}

if TYPE_CHECKING:
    from trtllm_ext.lowering.steps import OnnxSegment, Source, Weight


class SegmentTable:
    """Takes segments one by one; what they come to is in the attributes.

    refittable: the weights that can be exchanged in the engine, by source. strip: leave their bytes out.
    fusion_level: as the engine will be loaded.
    """

    def __init__(
        self, refittable: Mapping[Source, RefittableWeights], strip: bool, fusion_level: FusionLevel
    ) -> None:
        self.models: list[bytes] = []
        self.records: list[SegmentRecord] = []
        self.blocks = WeightBlocks()
        self.refit: list[RefitRecord] = []
        # Milliseconds that it took to prepare a model, by its digest.
        self.timings: dict[bytes, float] = {}
        self._same = SameSegments()
        self._refittable = refittable
        self._strip = strip
        self._fusion_level = fusion_level

    def add(self, segment: OnnxSegment) -> OnnxStep:
        """Take a segment and return the step that runs it, or one that is the same but for names and came before.

        Raises BuildError if ONNX Runtime cannot run it.
        """
        number = len(self.models)
        # Weights that can be exchanged belong to one layer, in one segment.
        if all(weight.source is None for weight in segment.weights):
            contents = tuple(self._content(weight.data) for weight in segment.weights)
            found = self._same.find_or_keep(number, segment, contents)
            if found != number:
                return OnnxStep(found, segment.inputs, segment.outputs)
        weights = self._weights(number, segment)
        model = self._model(segment, weights)
        offset = self.records[-1].offset + self.records[-1].nbytes if self.records else 0
        self.records.append(SegmentRecord(offset=offset, nbytes=len(model), weights=weights))
        self.models.append(model)
        self._try(model, segment)
        return OnnxStep(number, segment.inputs, segment.outputs)

    def _content(self, data: Bytes) -> bytes:
        """The same for weights with the same bytes; large ones are compared by the memory that they lie in."""
        if data.nbytes <= _SMALL_BYTES:
            return hashlib.sha256(data.data).digest()
        return str(self.blocks.place(data)).encode()

    def _weights(self, number: int, segment: OnnxSegment) -> tuple[SegmentWeight, ...]:
        folded = _folded_names(segment)
        return tuple(
            SegmentWeight(
                name=weight.name,
                block=self._block(number, weight),
                onnx_type=weight.onnx_type,
                shape=weight.shape,
                is_folded=weight.name in folded,
            )
            for weight in segment.weights
        )

    def _block(self, segment: int, weight: Weight) -> int:
        if weight.source is None:
            return self.blocks.place(weight.data)
        whose = self._refittable[weight.source]
        self.refit.append(
            RefitRecord(
                layer=whose.layer.name,
                role=whose.role.name,
                name=whose.name,
                segment=segment,
                weight=weight.name,
            )
        )
        return STRIPPED if self._strip else self.blocks.place(weight.data, shared=False)

    def _model(self, segment: OnnxSegment, weights: tuple[SegmentWeight, ...]) -> bytes:
        """The serialized model, which says where its weights lie among those of the plan."""
        placed = {
            weight.name: self.blocks.records[weight.block] for weight in weights if weight.block != STRIPPED
        }
        for initializer in segment.model.graph.initializer:
            block = placed.get(initializer.name)
            if block is not None:
                initializer.external_data.add(key="offset", value=str(block.offset))
                initializer.external_data.add(key="length", value=str(block.nbytes))
        return segment.model.SerializeToString(deterministic=True)

    def _try(self, model: bytes, segment: OnnxSegment) -> None:
        """Open the model once, so that what ONNX Runtime cannot run is refused now and not when it is loaded."""
        digest = hashlib.sha256(model).digest()[:16]
        if (milliseconds := _TRIED.get((digest, self._fusion_level))) is not None:
            self.timings[digest] = milliseconds
            return
        shared = [
            SharedWeight(weight.name, weight.onnx_type, weight.shape, weight.data)
            for weight in segment.weights
        ]
        begin = time.perf_counter()
        try:
            open_session(model, shared, "mapped", fusion_level=self._fusion_level, threads=1)
        except EngineError as error:
            raise BuildError(f"the network cannot be run on this machine: {error}") from error
        milliseconds = (time.perf_counter() - begin) * 1e3
        self.timings[digest] = _TRIED[digest, self._fusion_level] = milliseconds


def _folded_names(segment: OnnxSegment) -> set[str]:
    """Weights that some node, of a graph inside another perhaps, reads together with nothing but constants."""
    weights = {weight.name for weight in segment.weights}
    constants = {initializer.name for initializer in segment.model.graph.initializer}
    folded: set[str] = set()
    graphs = [segment.model.graph]
    while graphs:
        for node in graphs.pop().node:
            inside = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
            graphs.extend(inside)
            given = [name for name in node.input if name]
            if not inside and constants.issuperset(given):
                constants.update(node.output)
                folded.update(weights.intersection(given))
    return folded
