"""The segments of a plan as sessions, over the weights of the plan or those that were exchanged for them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from trtllm_ext.embedded.plan import STRIPPED, OnnxStep, Plan, SegmentWeight
from trtllm_ext.embedded.plan.blocks import Bytes
from trtllm_ext.embedded.plan.onnx_model import Initializer, external_initializers, lasting_initializers
from trtllm_ext.embedded.plan.rewriting import WeightPlace
from trtllm_ext.embedded.plan.steps import onnx_steps
from trtllm_ext.embedded.running.sessions import LoadMode, SegmentSession, SharedWeight, open_session
from trtllm_ext.embedded.running.threads import ThreadPool, shares_process_pool, spins, threads_of_session
from trtllm_ext.embedded.tensor_types import ElementType
from trtllm_ext.errors import EngineError


class Segments:
    """Sessions, one a segment; None for one whose weights are not all there."""

    def __init__(
        self, plan: Plan, mode: LoadMode, elements: Mapping[str, ElementType], pool: ThreadPool | None = None
    ) -> None:
        """Open all segments. pool: see `Runtime.thread_pool`.

        Raises EngineError if one is not as the header says, or ONNX Runtime refuses it.
        """
        self._plan = plan
        self._mode = mode
        self._pool = pool
        self._elements = elements
        self._exchanged: dict[WeightPlace, Bytes] = {}
        self.sessions = [self._open(index, {}) for index in range(len(plan.header.segments))]

    @property
    def are_exchanged(self) -> bool:
        """Whether any weights are others than in the plan."""
        return bool(self._exchanged)

    @property
    def missing(self) -> set[WeightPlace]:
        """Weights that the plan does not have, and nobody has brought."""
        return {
            (index, weight.name)
            for index, segment in enumerate(self._plan.header.segments)
            for weight in segment.weights
            if self._current(index, weight, self._exchanged) is None
        }

    def current(self, place: WeightPlace) -> Bytes | None:
        """The bytes of weights as they are now, or None if they are missing."""
        return self._current(place[0], self.record(place), self._exchanged)

    def record(self, place: WeightPlace) -> SegmentWeight:
        """What the header says of weights."""
        return next(one for one in self._plan.header.segments[place[0]].weights if one.name == place[1])

    @contextmanager
    def exchanged(self, weights: Mapping[WeightPlace, Bytes]) -> Iterator[None]:
        """Run with other weights from now on; what runs already goes on with the old ones.

        weights: kept, not copied, so they must stay as they are.
        Raises EngineError, with everything as it was, if ONNX Runtime refuses them. Everything is as it was, too, if
        what is done in the `with` statement raises.
        """
        before = self._exchanged, self.sessions
        exchanged = {**self._exchanged, **weights}
        opened = {index: self._open(index, exchanged) for index in {segment for segment, _ in weights}}
        self._exchanged = exchanged
        self.sessions = [opened.get(index, session) for index, session in enumerate(self.sessions)]
        try:
            yield
        except BaseException:
            self._exchanged, self.sessions = before
            raise

    def _current(
        self, index: int, weight: SegmentWeight, exchanged: Mapping[WeightPlace, Bytes]
    ) -> Bytes | None:
        found = exchanged.get((index, weight.name))
        if found is not None or weight.block == STRIPPED:
            return found
        return self._plan.weight(weight.block)

    def _open(self, index: int, exchanged: Mapping[WeightPlace, Bytes]) -> SegmentSession | None:
        plan = self._plan
        table, model = plan.header.segments[index].weights, plan.segment(index)
        there = external_initializers(model)
        if {weight.name: Initializer(weight.onnx_type, weight.shape) for weight in table} != there:
            raise EngineError(
                f"segment {index} of the engine has other weights than its header says: names, types or shapes "
                "differ."
            )
        # Prepacked, an engine reads nothing from its plan any more: most weights are in memory of ONNX Runtime then,
        # and the others are copied.
        copied = lasting_initializers(model) if self._mode == "prepack" else set()
        weights = []
        for weight in table:
            data = self._current(index, weight, exchanged)
            if data is None:
                return None
            if weight.name in copied:
                data = np.array(data)
            weights.append(SharedWeight(weight.name, weight.onnx_type, weight.shape, data, weight.is_folded))
        count = len(plan.header.segments)
        session = open_session(
            bytes(model),
            weights,
            self._mode,
            fusion_level=plan.header.fusion_level,
            process_pool=self._pool == "process" or (self._pool is None and shares_process_pool()),
            threads=1 if self._pool == "none" else threads_of_session(count),
            spins=count == 1 and spins(),
        )
        steps = [step for step in onnx_steps(plan.header.steps) if step.segment == index]
        for step in steps:
            _check_signature(session, step, steps[0], self._elements)
        return session


def _check_signature(
    segment: SegmentSession, step: OnnxStep, own: OnnxStep, elements: Mapping[str, ElementType]
) -> None:
    """own: the step that has the segment's own names."""
    for names, own_names, there in (
        (step.inputs, own.inputs, segment.session.get_inputs()),
        (step.outputs, own.outputs, segment.session.get_outputs()),
    ):
        types = {value.name: value.type for value in there}
        if set(own_names) != set(types) or len(own_names) != len(types):
            raise EngineError(
                f"segment {step.segment} of the engine has other inputs or outputs than its step says."
            )
        for name, own_name in zip(names, own_names, strict=True):
            if name in elements and types[own_name] != elements[name].onnx_name:
                raise EngineError(
                    f"{name!r} is {elements[name].name} in the engine's header, but {types[own_name]} in segment "
                    f"{step.segment}."
                )
