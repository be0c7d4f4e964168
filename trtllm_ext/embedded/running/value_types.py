"""Element types of all values of a plan, those between its steps too."""

from collections.abc import Iterator, Mapping, Sequence

from trtllm_ext.embedded.plan import CollectiveStep, OnnxStep, SingleStep
from trtllm_ext.embedded.plan.steps import own_steps
from trtllm_ext.embedded.running.sessions import SegmentSession
from trtllm_ext.embedded.tensor_types import (
    ElementType,
    element_type_named,
    element_type_named_by_onnx,
    element_type_of,
)
from trtllm_ext.errors import BuildError, EngineError


def types_of_values(
    steps: Sequence[SingleStep], sessions: Sequence[SegmentSession], elements: Mapping[str, ElementType]
) -> Mapping[str, ElementType]:
    """The type of every value that a step takes or makes.

    elements: of the engine's inputs and outputs. Raises EngineError if makers and takers of a value contradict each
    other, or the engine's header contradicts them.
    """
    types = dict(elements)
    own = own_steps(steps)
    for step in steps:
        for name, element in _declared(step, own, sessions):
            known = types.setdefault(name, element)
            if known != element:
                raise EngineError(
                    f"{name!r} is {known.name} in one step of the engine, and {element.name} in another or in its "
                    "header."
                )
    return types


def _declared(
    step: SingleStep, own: Mapping[int, OnnxStep], sessions: Sequence[SegmentSession]
) -> Iterator[tuple[str, ElementType]]:
    """own: the steps that have the segments' own names."""
    if isinstance(step, OnnxStep):
        session, named = sessions[step.segment].session, own[step.segment]
        types = {value.name: value.type for value in (*session.get_inputs(), *session.get_outputs())}
        both = zip((*step.inputs, *step.outputs), (*named.inputs, *named.outputs), strict=True)
        for name, own_name in both:
            yield name, element_type_named_by_onnx(types[own_name])
        return
    if isinstance(step, CollectiveStep):
        yield from ((name, element_type_named(step.dtype)) for name in (step.input, step.output))
        return
    yield from zip(step.inputs, map(element_type_named, step.input_types), strict=True)
    for name, dtype in zip(step.outputs, step.signature.dtypes, strict=True):
        try:
            yield name, element_type_of(dtype, name)
        except BuildError as error:
            raise EngineError(f"a plugin of the engine makes {error}") from None
