"""The tree of steps of a plan.

A node is a JSON object with a `kind`. This version knows four: `sequence` runs its steps in order, `onnx` runs one ONNX
segment, `plugin` calls the application's code, `collective` is done with other ranks. Any other kind is refused by its
name, never skipped.
"""

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from typing import Any

from trtllm_ext.embedded.plan.collectives import CollectiveStep, read_collective_step
from trtllm_ext.embedded.plan.plugins import PluginStep, read_plugin_step
from trtllm_ext.embedded.plan.strict_json import Fields
from trtllm_ext.errors import EngineError

# Far more than loops and ifs nest in any network; a bound keeps reading free of deep recursion.
MAX_DEPTH = 32


@dataclass(frozen=True)
class OnnxStep:
    """Run segment number `segment`: takes the named values, makes the named values.

    The first step of a segment has the names of the segment's own inputs and outputs. Others that run the same segment
    have other values in their places.
    """

    segment: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The node of this step."""
        return {
            "kind": "onnx",
            "segment": self.segment,
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
        }


@dataclass(frozen=True)
class SequenceStep:
    """Run the steps one after another."""

    steps: tuple["Step", ...]

    def to_json(self) -> dict[str, Any]:
        """The node of this step, its children included."""
        return {"kind": "sequence", "steps": [step.to_json() for step in self.steps]}


SingleStep = OnnxStep | PluginStep | CollectiveStep
Step = SingleStep | SequenceStep


def step_from_json(value: Any, where: str = "steps", depth: int = 0) -> Step:
    """Read one node. Raises EngineError for unknown kinds and for nodes that are not as they should be."""
    if depth > MAX_DEPTH:
        raise EngineError(f"the engine's steps are nested more than {MAX_DEPTH} deep.")
    with Fields(value, where) as fields:
        kind = fields.text("kind")
        if kind == "onnx":
            return OnnxStep(fields.integer("segment"), fields.texts("inputs"), fields.texts("outputs"))
        if kind == "plugin":
            return read_plugin_step(fields)
        if kind == "collective":
            return read_collective_step(fields)
        if kind == "sequence":
            children = fields.sequence("steps")
            return SequenceStep(
                tuple(
                    step_from_json(child, f"{where}.steps[{index}]", depth + 1)
                    for index, child in enumerate(children)
                )
            )
        raise EngineError(
            f"the engine has a step of kind {kind!r} at {where}; this version knows 'onnx', 'plugin', 'collective' "
            "and 'sequence'. Run it with the version of trtllm_ext that built it."
        )


def single_steps(step: Step) -> Iterator[SingleStep]:
    """The steps below `step` that are not made of others, in the order in which they run."""
    if isinstance(step, SequenceStep):
        for child in step.steps:
            yield from single_steps(child)
    else:
        yield step


def onnx_steps(step: Step) -> Iterator[OnnxStep]:
    """The ONNX steps below `step`, in the order in which they run."""
    return (single for single in single_steps(step) if isinstance(single, OnnxStep))


def plugin_steps(step: Step) -> Iterator[PluginStep]:
    """The plugin steps below `step`, in the order in which they run."""
    return (single for single in single_steps(step) if isinstance(single, PluginStep))


def collective_steps(step: Step) -> Iterator[CollectiveStep]:
    """The collectives below `step`, in the order in which they run."""
    return (single for single in single_steps(step) if isinstance(single, CollectiveStep))


def own_steps(steps: Iterable[SingleStep]) -> dict[int, OnnxStep]:
    """By number of a segment the step whose names are those of the segment itself: the first one."""
    own: dict[int, OnnxStep] = {}
    for step in steps:
        if isinstance(step, OnnxStep):
            own.setdefault(step.segment, step)
    return own


def check_flow(
    step: Step, inputs: Set[str], outputs: Set[str], num_segments: int, num_plugins: int = 0
) -> None:
    """Check that each value is made once, before it is used, and that all `outputs` are made.

    Raises EngineError naming the first value, segment or plugin for which that does not hold.
    """
    known = set(inputs)
    own = own_steps(single_steps(step))
    for single in single_steps(step):
        if isinstance(single, OnnxStep) and single.segment >= num_segments:
            raise EngineError(
                f"a step of the engine runs segment {single.segment}, but there are {num_segments} segments."
            )
        if isinstance(single, OnnxStep):
            _check_shared(single, own[single.segment])
        if isinstance(single, PluginStep) and single.plugin >= num_plugins:
            raise EngineError(
                f"a step of the engine calls plugin {single.plugin}, but there are {num_plugins} plugins."
            )
        for name in single.inputs:
            if name not in known:
                raise EngineError(f"a step of the engine takes {name!r}, which nothing before it makes.")
        for name in single.outputs:
            if name in known:
                raise EngineError(f"a step of the engine makes {name!r}, which is there already.")
            known.add(name)
    missing = sorted(outputs - known)
    if missing:
        raise EngineError(f"no step of the engine makes its output {missing[0]!r}.")


def _check_shared(step: OnnxStep, own: OnnxStep) -> None:
    given = (len(step.inputs), len(step.outputs))
    if given != (len(own.inputs), len(own.outputs)):
        raise EngineError(
            f"a step of the engine runs segment {step.segment} with {given[0]} inputs and {given[1]} outputs, another "
            f"with {len(own.inputs)} and {len(own.outputs)}."
        )
