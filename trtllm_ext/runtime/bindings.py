"""What an execution context has been told: shapes, addresses, profile; and the checks before it is told."""

import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np

from trtllm_ext.errors import EngineError, InputError
from trtllm_ext.runtime.input_defaults import InputDefault, LeftOut
from trtllm_ext.runtime.late_outputs import LateOutput
from trtllm_ext.runtime.memory import Memory
from trtllm_ext.runtime.tensors import Port, Shape, within
from trtllm_ext.suggest import did_you_mean


class Bindings:
    """The inputs and outputs of one context. Remembers what was bound last, so that repeating a run costs little.

    memory: where values lie. logger: the recording logger of the engine's runtime, when it is known.
    defaults: the inputs that a run may leave out.
    """

    def __init__(
        self,
        context: Any,
        ports: list[Port],
        memory: Memory,
        logger: Any = None,
        defaults: Mapping[str, InputDefault] | None = None,
    ) -> None:
        self.context = context
        self.memory = memory
        self.logger = logger
        self.inputs = {port.name: port for port in ports if port.is_input}
        self.outputs = {port.name: port for port in ports if not port.is_input}
        self._input_ports = tuple(self.inputs.values())
        self._output_ports = tuple(self.outputs.values())
        # Values that decide shapes may have changed; without inputs nothing else would ever ask for shapes.
        self._asks_each_time = not self._input_ports or any(port.is_shape for port in self._input_ports)
        self._profile = 0
        self._has_moved = False
        self.left_out = LeftOut(defaults or {}, self._input_ports, memory)
        # Outputs whose shape only a run shows.
        self._late: dict[str, LateOutput] = {}

    def bind(
        self, inputs: Mapping[str, Any], outputs: Mapping[str, Any] | None, stream: int, check: bool
    ) -> dict[str, Any]:
        """Make the context ready to run on these values; returns all outputs by name, new ones among them.

        Those that only the run can make are LateOutputs; `take_late` turns them into values.
        Raises InputError for what does not fit; call `forget` then.
        """
        changed = self._take_inputs(inputs, check)
        if changed or self._asks_each_time:
            self.set_shapes(changed, stream)
            self.read_output_shapes()
        return self._take_outputs(inputs, outputs, check)

    def take_late(self, results: dict[str, Any]) -> None:
        """After a run: the outputs whose shape it has shown."""
        for name, late in self._late.items():
            results[name] = late.take()

    def forget(self) -> None:
        """After a failure nothing is known of what the context was told."""
        self.memory.forget()
        for port in (*self._input_ports, *self._output_ports):
            port.last = port.last_shape = None
            port.address = -1

    def check_names(self, inputs: Mapping[str, Any]) -> None:
        """Raise InputError unless `inputs` has exactly the engine's inputs, but for those that may be left out."""
        if not isinstance(inputs, Mapping):
            raise InputError(
                f"inputs is a {type(inputs).__name__}; expected a dict from input name to array."
            )
        may_lack = self.left_out.defaults
        takes = "; ".join(port.describe() for port in self._input_ports if port.name not in may_lack)
        if may_lack:
            takes += f"; and, where a run asks for it, {_some_of(list(may_lack))}"
        if unknown := sorted(map(str, set(inputs) - set(self.inputs))):
            hint = f" {did_you_mean(unknown[0], may_lack)}".rstrip()
            raise InputError(f"unknown input {unknown[0]!r}.{hint} The engine takes: {takes}.")
        if missing := [name for name in self.inputs if name not in inputs and name not in may_lack]:
            raise InputError(f"input {missing[0]!r} is missing. The engine takes: {takes}.")

    def completed(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """`inputs`, and in place of those that may be left out what they are given then."""
        is_usable = self.left_out.defaults and self.context is not None
        return self.left_out.completed(inputs) if is_usable else inputs

    def mark(self) -> int:
        """A position in what the engine logs, for `said`."""
        return int(self.logger.mark()) if self.logger else 0

    def said(self, mark: int) -> str:
        """ ": " and what the engine logged after `mark`, or nothing."""
        text = self.logger.errors_since(mark) if self.logger else ""
        return f": {text.rstrip('.')}" if text else ""

    def _take_inputs(self, inputs: Mapping[str, Any], check: bool) -> list[tuple[Port, Shape]]:
        """Bind the inputs' addresses; returns those whose shape is not the one the context knows."""
        changed: list[tuple[Port, Shape]] = []
        if type(inputs) is not dict or len(inputs) != len(self.inputs):
            self.check_names(inputs)
        for port in self._input_ports:
            try:
                value = inputs[port.name]
            except KeyError:
                self.check_names(inputs)
                raise
            last = port.last
            if (
                last is not None
                and last() is value
                and value is not None  # which the dead reference to the last one is, too
                and value.shape == port.last_shape
                and value.dtype == port.numpy_dtype
            ):
                continue
            if check:
                port.check_value(value)
            address = self.memory.take(port, value)
            shape = tuple(value.shape)
            if shape != port.last_shape:
                changed.append((port, shape))
            self._bind(port, address, value)
        return changed

    def _take_outputs(
        self, inputs: Mapping[str, Any], outputs: Mapping[str, Any] | None, check: bool
    ) -> dict[str, Any]:
        results: dict[str, Any] = {}
        if outputs and (unknown := set(outputs) - set(self.outputs)):
            raise InputError(f"unknown output {min(unknown)!r}; the engine gives {', '.join(self.outputs)}.")
        for port in self._output_ports:
            value = outputs.get(port.name) if outputs else None
            shape = port.last_shape or ()
            if port.name in self._late:
                if value is not None:
                    raise InputError(
                        f"output {port.name!r} has a shape that depends on data, {shape}, so it cannot be given; leave "
                        "it out, and it will be made."
                    )
                results[port.name] = late = self._late[port.name]
                late.like = self._beside(inputs)
                continue
            if value is None:
                value = self.memory.new(port, shape, self._beside(inputs))
            else:
                last = port.last
                if (
                    last is not None
                    and last() is value
                    and value.shape == shape
                    and value.dtype == port.numpy_dtype
                    and value.flags.writeable
                ):
                    results[port.name] = value
                    continue
                if check:
                    port.check_value(value)
                if tuple(value.shape) != shape:
                    raise InputError(
                        f"output {port.name!r} has shape {tuple(value.shape)}; for these inputs it must be "
                        f"{shape}."
                    )
            self._bind(port, self.memory.take(port, value), value)
            results[port.name] = value
        if outputs and self._has_moved:
            self._check_overlap()
            self._has_moved = False
        return results

    def _beside(self, inputs: Mapping[str, Any]) -> Any:
        """The value beside which outputs are made: the first input."""
        return inputs[self._input_ports[0].name] if self._input_ports else None

    def _bind(self, port: Port, address: int, value: Any) -> None:
        if address != port.address:
            if not self.context.set_tensor_address(port.name, address):
                raise EngineError(f"the engine does not take an address for {port.role} {port.name!r}.")
            port.address = address
            self._has_moved = True
        nbytes = value.nbytes
        if nbytes != port.nbytes:
            port.nbytes = nbytes
            self._has_moved = True
        # A weak reference: the session keeps nobody's memory alive. torch tensors can change their storage in
        # place, so only numpy arrays are recognised again.
        in_place = self.memory.reads_in_place and isinstance(value, np.ndarray) and not port.is_shape
        port.last = weakref.ref(value) if in_place else None

    def _check_overlap(self) -> None:
        for port in self._output_ports:
            for other in (*self._input_ports, *self._output_ports):
                if other is port or not port.nbytes or not other.nbytes:
                    continue
                if port.address < other.address + other.nbytes and other.address < port.address + port.nbytes:
                    raise InputError(
                        f"output {port.name!r} and {other.role} {other.name!r} share memory; the engine "
                        f"would overwrite what it still has to read. Give them separate arrays."
                    )

    def set_shapes(self, changed: list[tuple[Port, Shape]], stream: int) -> None:
        """Check shapes and tell the context; the other inputs keep theirs."""
        for port, shape in changed:
            port.check_shape(shape)
        for port, shape in changed:
            port.last_shape = shape
        self._check_named_dimensions()
        self._select_profile(stream)
        mark = self.mark()
        for port, shape in changed:
            if not self.context.set_input_shape(port.name, shape):
                raise InputError(f"input {port.name!r} cannot have shape {shape}{self.said(mark)}.")

    def _select_profile(self, stream: int) -> None:
        count = max((len(port.ranges) for port in self._input_ports), default=1)
        if count < 2:
            return
        for index in (self._profile, *range(count)):
            if all(
                within(port.last_shape or (), *port.ranges[index])
                for port in self._input_ports
                if port.ranges
            ):
                break
        else:
            allowed = "; or ".join(
                ", ".join(
                    f"{port.name} {port.ranges[i][0]} to {port.ranges[i][1]}" for port in self._input_ports
                )
                for i in range(count)
            )
            raise InputError(f"no profile of the engine allows {self._given()} together. Allowed: {allowed}.")
        if index != self._profile:
            if not self.context.set_optimization_profile_async(index, stream):
                raise EngineError(f"the engine does not switch to optimization profile {index}.")
            self._profile = index
            # A new profile forgets shapes.
            for port in self._input_ports:
                self.context.set_input_shape(port.name, port.last_shape)

    def _check_named_dimensions(self) -> None:
        seen: dict[str, tuple[int, str]] = {}
        for port in self._input_ports:
            for name, dim in zip(port.dim_names, port.last_shape or (), strict=False):
                if not name:
                    continue
                size, where = seen.setdefault(name, (dim, port.name))
                if size != dim:
                    raise InputError(
                        f"{name} is {size} in input {where!r} but {dim} in input {port.name!r}; they must be "
                        f"equal."
                    )

    def read_output_shapes(self) -> None:
        """Ask the context for the shapes that the outputs will have."""
        mark = self.mark()
        try:
            missing = self.context.infer_shapes()
        except RuntimeError as problem:
            raise InputError(
                f"the inputs do not fit each other: {self._given()}{self.said(mark) or f' ({problem})'}."
            ) from problem
        if missing:
            raise InputError(
                f"the shapes of the outputs depend on {', '.join(missing)}, not known yet{self.said(mark)}."
            )
        for port in self._output_ports:
            shape = tuple(self.context.get_tensor_shape(port.name))
            if any(dim < 0 for dim in shape):
                self._expect_late(port)
            if shape != port.last_shape:
                port.last = None
            port.last_shape = shape

    def _expect_late(self, port: Port) -> None:
        """Let an output have its memory when the run asks for it."""
        if port.name not in self._late:
            self._late[port.name] = LateOutput(port, self.memory)
            if not self.context.set_output_allocator(port.name, self._late[port.name].allocator):
                raise EngineError(f"the engine takes no output allocator for output {port.name!r}.")

    def _given(self) -> str:
        return ", ".join(f"{port.name} {port.last_shape}" for port in self._input_ports)


def _some_of(names: list[str]) -> str:
    """At most four of many names."""
    shown = names if len(names) <= 4 else names[:3]
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(shown) < len(names) else "")
