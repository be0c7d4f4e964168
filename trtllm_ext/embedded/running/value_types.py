"""Element types of all values of a plan, those between its steps too."""

from collections.abc import Iterator, Mapping, Sequence

from trtllm_ext.embedded.plan import OnnxStep, PluginStep
from trtllm_ext.embedded.running.sessions import SegmentSession
from trtllm_ext.embedded.tensor_types import (
    ElementType,
    element_type_named,
    element_type_named_by_onnx,
    element_type_of,
)
from trtllm_ext.errors import BuildError, EngineError

Step = OnnxStep | PluginStep


def types_of_values(
    steps: Sequence[Step], sessions: Sequence[SegmentSession], elements: Mapping[str, ElementType]
) -> Mapping[str, ElementType]:
    """The type of every value that a step takes or makes.

    elements: of the engine's inputs and outputs. Raises EngineError if makers and takers of a value contradict each
    other, or the engine's header contradicts them.
    """
    types = dict(elements)
    for step in steps:
        for name, element in _declared(step, sessions):
            known = types.setdefault(name, element)
            if known != element:
                raise EngineError(
                    f"{name!r} is {known.name} in one step of the engine, and {element.name} in another or in its "
                    "header."
                )
    return types


def _declared(step: Step, sessions: Sequence[SegmentSession]) -> Iterator[tuple[str, ElementType]]:
    if isinstance(step, OnnxStep):
        session = sessions[step.segment].session
        for value in (*session.get_inputs(), *session.get_outputs()):
            yield value.name, element_type_named_by_onnx(value.type)
        return
    yield from zip(step.inputs, map(element_type_named, step.input_types), strict=True)
    for name, dtype in zip(step.outputs, step.signature.dtypes, strict=True):
        try:
            yield name, element_type_of(dtype, name)
        except BuildError as error:
            raise EngineError(f"a plugin of the engine makes {error}") from None
