"""From the bytes of a plan to what can be run: checks, sessions, shape inference."""

import mmap
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from trtllm_ext.embedded.plan import OnnxStep, Plan, SingleStep, TensorRecord, read_plan
from trtllm_ext.embedded.plan.steps import single_steps
from trtllm_ext.embedded.plugins.asking import PluginHandle
from trtllm_ext.embedded.plugins.making import make_plugins
from trtllm_ext.embedded.plugins.registry import IPluginRegistry
from trtllm_ext.embedded.profile_check import optimum_shapes
from trtllm_ext.embedded.rules.program import ShapeProgram
from trtllm_ext.embedded.running.segments import Segments
from trtllm_ext.embedded.running.sessions import LoadMode, SegmentSession
from trtllm_ext.embedded.running.threads import ThreadPool, num_threads
from trtllm_ext.embedded.running.value_types import types_of_values
from trtllm_ext.embedded.tensor_types import ElementType, element_type_named
from trtllm_ext.errors import EngineError

Shape = tuple[int, ...]

# Shapes of outputs are remembered for this many combinations of input shapes.
_MAX_REMEMBERED = 1024
# Weights that are checked by the thread at hand.
_SMALL_BYTES = 1 << 18


class LoadedPlan:
    """A plan with its sessions, shared by an engine and its contexts."""

    def __init__(
        self, plan: Plan, segments: Segments, program: ShapeProgram, plugins: Sequence[PluginHandle] = ()
    ) -> None:
        header = plan.header
        self.plan = plan
        self.segments = segments
        self.steps: tuple[SingleStep, ...] = tuple(single_steps(header.steps))
        self.plugins = tuple(zip(header.plugins, plugins, strict=True))
        self.tensors: Mapping[str, TensorRecord] = {tensor.name: tensor for tensor in header.tensors}
        self.elements: Mapping[str, ElementType] = _elements(plan)
        self.debug_elements = {tensor.name: self.elements[tensor.name] for tensor in header.debug}
        self._program = program
        self._remembered: dict[Any, dict[str, Shape]] = {}

    @property
    def sessions(self) -> Sequence[SegmentSession]:
        """The sessions of all segments. Raises EngineError if a refit has yet to bring weights."""
        sessions = [session for session in self.segments.sessions if session is not None]
        if len(sessions) < len(self.segments.sessions):
            raise EngineError(
                f"the engine was serialized without its weights; refit it with all {len(self.segments.missing)} that "
                "Refitter.get_missing_weights() tells of, then run it."
            )
        return sessions

    def output_shapes(
        self,
        shapes: Mapping[str, Shape],
        values: Mapping[str, np.ndarray[Any, Any]],
        *,
        at_most: bool = False,
    ) -> Mapping[str, Shape]:
        """The shape of every output; -1 where only a run can tell.

        shapes: of all inputs. values: of the inputs that are shape inputs. at_most: give the largest length that a run
        can show instead of -1.
        Raises ValueError if inputs of these shapes and values do not fit each other.
        """
        key = (
            at_most,
            tuple(shapes.items()),
            tuple((name, value.tobytes()) for name, value in values.items()),
        )
        found = self._remembered.get(key)
        if found is None:
            found = self._program.run(shapes, values, at_most=at_most)
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = found
        return found


def load_plan(
    buffer: Any, mode: LoadMode, registry: IPluginRegistry, pool: ThreadPool | None = None
) -> LoadedPlan:
    """Check a serialized engine and make it ready to run.

    buffer: anything with the buffer protocol. Read-only memory and mapped files are used where they are and must
    stay unchanged; other memory is copied.
    registry: has the creators of the engine's plugins. pool: see `Runtime.thread_pool`.
    Checksums of the weights are computed on all threads while ONNX Runtime prepares the models, and nothing is
    returned before both are done.
    Raises EngineError with the reason if the engine is damaged or cannot be run by this version.
    """
    view = _stable_view(buffer)
    plan = read_plan(view)
    program = _shape_program(plan)
    plugins = make_plugins(plan.header.plugins, registry)
    segments = _checked_segments(plan, mode, pool)
    _drop_pages(buffer)
    loaded = LoadedPlan(plan, segments, program, plugins)
    if not segments.missing and not all(isinstance(step, OnnxStep) for step in loaded.steps):
        types_of_values(loaded.steps, loaded.sessions, loaded.elements)
    _check_shapes(loaded)
    return loaded


def _checked_segments(plan: Plan, mode: LoadMode, pool: ThreadPool | None) -> Segments:
    # Damage explains whatever else went wrong, so it is reported first.
    if plan.layout.weights_bytes <= _SMALL_BYTES:  # before a thread has started, it is done
        plan.check_weights(1)
        return Segments(plan, mode, _elements(plan), pool)
    with ThreadPoolExecutor(1, "plan-check") as executor:
        check = executor.submit(plan.check_weights, num_threads())
        try:
            return Segments(plan, mode, _elements(plan), pool)
        finally:
            check.result()


def _stable_view(buffer: Any) -> memoryview:
    try:
        view = memoryview(buffer)
    except TypeError:
        raise EngineError(
            f"an engine is given as bytes or a buffer, not as {type(buffer).__name__}."
        ) from None
    except (ValueError, BufferError) as error:
        raise EngineError(f"the memory given for the engine cannot be read: {error}.") from None
    if not view.c_contiguous:
        raise EngineError("an engine is given as contiguous bytes, not as a strided buffer.")
    if view.readonly or isinstance(buffer, mmap.mmap):
        return view
    return memoryview(view.tobytes())


def _shape_program(plan: Plan) -> ShapeProgram:
    header = plan.header
    try:
        program = ShapeProgram.from_json(header.shape_program)
    except ValueError as error:
        raise EngineError(f"the engine's shape program is not valid: {error}") from None
    shape_inputs = {tensor.name for tensor in header.tensors if tensor.is_shape_input}
    if set(program.shape_inputs) != shape_inputs:
        raise EngineError("the engine's shape program needs the values of other inputs than its header says.")
    return program


def _check_shapes(loaded: LoadedPlan) -> None:
    """Infer the shapes at the optimum of every profile: they exist, and are such as the header says."""
    header = loaded.plan.header
    for index, profile in enumerate(header.profiles):
        try:
            found = optimum_shapes(loaded.output_shapes, header.tensors, profile)
        except (ValueError, OverflowError) as error:
            raise EngineError(f"the engine's shape program fails for profile {index}: {error}") from None
        declared = {tensor.name: tensor.shape for tensor in header.tensors if not tensor.is_input}
        fits = set(found) == set(declared) and all(
            len(found[name]) == len(shape)
            and all(length in (-1, exact) for length, exact in zip(shape, found[name], strict=True))
            for name, shape in declared.items()
        )
        if not fits:
            raise EngineError(
                f"the engine's shape program gives {dict(found)} for profile {index}, its header {declared}."
            )


def _elements(plan: Plan) -> Mapping[str, ElementType]:
    return {
        tensor.name: element_type_named(tensor.dtype) for tensor in (*plan.header.tensors, *plan.header.debug)
    }


def _drop_pages(buffer: Any) -> None:
    """Give back the pages of a mapped file that the checks have read; they come again when they are used."""
    mapping = buffer if isinstance(buffer, mmap.mmap) else getattr(buffer, "_mmap", None)
    if not isinstance(mapping, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED"):
        return
    # What counts is the mapping itself, not a view of it: private pages that were written are nowhere else.
    with memoryview(mapping) as whole:
        is_file = whole.readonly
    if is_file:
        mapping.madvise(mmap.MADV_DONTNEED)
