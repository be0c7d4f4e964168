"""The session: an engine ready to run, with every input checked before it is."""

import json
import os
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from trtllm_ext import backend
from trtllm_ext.errors import EngineError, InputError
from trtllm_ext.runtime.engine_dir import EngineDir
from trtllm_ext.runtime.memory import DeviceMemory, HostMemory, Memory
from trtllm_ext.runtime.ports import ports_of, profile_shapes
from trtllm_ext.runtime.tensor_info import TensorInfo
from trtllm_ext.runtime.tensors import Port, Shape, within
from trtllm_ext.runtime.trt_log import recording_logger

LOAD_MODES = ("prepack", "mapped")


class Session:
    """An engine with one execution context.

    Made by `from_engine_dir`, `from_serialized_engine` or `from_engine`. Calls from several threads take turns.
    Usable as a context manager; `close` gives memory back.
    """

    def __init__(
        self,
        engine: Any,
        *,
        runtime: Any = None,
        logger: Any = None,
        engine_dir: EngineDir | None = None,
        buffer: Any = None,
    ) -> None:
        self.engine = engine
        self.runtime = runtime
        self.engine_dir = engine_dir
        self._logger = logger
        self._buffer = buffer  # an engine may read its weights in place for as long as it lives
        self.context = engine.create_execution_context()
        if self.context is None:
            raise EngineError(f"no execution context could be made for {self._source()}{self._said(0)}.")
        ports = ports_of(engine, engine_dir.envelope if engine_dir else None)
        self._inputs = {port.name: port for port in ports if port.is_input}
        self._outputs = {port.name: port for port in ports if not port.is_input}
        self._input_ports = tuple(self._inputs.values())
        self._output_ports = tuple(self._outputs.values())
        self._memory: Memory = HostMemory() if backend.choice().engine == "embedded" else DeviceMemory()
        self._has_shape_inputs = any(port.is_shape for port in self._input_ports)
        self._profile = 0
        self._lock = threading.Lock()

    # --- making one ---------------------------------------------------------------------------------------

    @classmethod
    def from_engine_dir(
        cls, path: str | os.PathLike[str], rank: int = 0, load_mode: str = "prepack"
    ) -> "Session":
        """Load rank `rank` of an engine directory, after its envelope has been checked.

        load_mode: 'prepack' (fastest to run, weights twice in memory) or 'mapped' (loads at once, weights stay
        in the file and are shared between processes); the embedded engine only.
        Raises EngineError for anything missing, damaged, or built for another library or device.
        """
        directory = EngineDir.read(os.fspath(path), rank)
        directory.check_host()
        return cls._load(directory.map_engine(), load_mode, directory)

    @classmethod
    def from_serialized_engine(cls, engine: Any, load_mode: str = "prepack") -> "Session":
        """Load an engine from a buffer: bytes, mmap, or what `Builder.build_engine` returned.

        The buffer is used in place where it can be; do not change it while the session lives.
        """
        return cls._load(engine, load_mode, None)

    @classmethod
    def from_engine(cls, engine: Any) -> "Session":
        """A session on a `trt.ICudaEngine` that is loaded already."""
        return cls(engine)

    @classmethod
    def _load(cls, buffer: Any, load_mode: str, directory: EngineDir | None) -> "Session":
        if load_mode not in LOAD_MODES:
            raise InputError(f"load_mode={load_mode!r} is not known; it is one of {', '.join(LOAD_MODES)}.")
        trt = backend.tensorrt()
        logger = recording_logger(trt)
        runtime = trt.Runtime(logger)
        if hasattr(runtime, "load_mode"):
            runtime.load_mode = load_mode
        elif load_mode != "prepack":
            raise InputError(
                f"load_mode={load_mode!r} is for the embedded engine; TensorRT has no such choice."
            )
        try:
            engine = runtime.deserialize_cuda_engine(buffer)
        except TypeError as problem:
            raise EngineError(
                f"an engine must be bytes or another buffer, not a {type(buffer).__name__}."
            ) from problem
        if engine is None:
            source = str(directory.engine_path) if directory else "the buffer"
            raise EngineError(
                f"{source} is not an engine that can be loaded here: "
                f"{logger.errors_since(0) or 'no reason was logged'}"
            )
        return cls(engine, runtime=runtime, logger=logger, engine_dir=directory, buffer=buffer)

    def close(self) -> None:
        """Drop context and engine and free device memory; the session cannot be used afterwards."""
        with self._lock:
            self._memory.close()
            self.context = self.engine = self.runtime = self._buffer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- what it takes and gives --------------------------------------------------------------------------

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """Name, type and shape of each input, in the engine's order; -1 where a dimension may vary."""
        return tuple(TensorInfo(port.name, port.dtype, port.shape) for port in self._input_ports)

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The same for the outputs."""
        return tuple(TensorInfo(port.name, port.dtype, port.shape) for port in self._output_ports)

    def profiles(self, name: str) -> list[tuple[Shape, Shape, Shape]]:
        """(min, opt, max) shape of an input in each optimization profile."""
        if name not in self._inputs:
            raise InputError(f"{name!r} is not an input; the engine takes {', '.join(self._inputs)}.")
        return profile_shapes(self.engine, name)

    def layers(self) -> list[dict[str, Any]]:
        """The engine's layers as its inspector tells them: at least a name each, more with detailed verbosity."""
        trt = backend.tensorrt()
        text = self.engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
        found = json.loads(text).get("Layers", [])
        return [_layer(each) for each in found]

    def infer_shapes(self, inputs: Sequence[TensorInfo]) -> list[TensorInfo]:
        """Tell the engine the shapes of all inputs; returns the outputs with the shapes they will have.

        Raises InputError (a ValueError) for an unknown name, another type, or a shape outside the profiles.
        """
        infos = {info.name: info for info in inputs}
        self._check_names(infos)
        for name, info in infos.items():
            if info.dtype != self._inputs[name].dtype:
                raise InputError(
                    f"input {name!r} is announced as {info.dtype}; the engine takes "
                    f"{self._inputs[name].dtype}."
                )
        with self._lock:
            return self._set_shapes({name: info.shape for name, info in infos.items()})

    def set_shapes(self, inputs: Mapping[str, Any]) -> list[TensorInfo]:
        """As `infer_shapes`, from arrays, tensors or plain shapes by name."""
        self._check_names(inputs)
        shapes = {name: tuple(getattr(value, "shape", value)) for name, value in inputs.items()}
        with self._lock:
            return self._set_shapes(shapes)

    def _set_shapes(self, shapes: dict[str, Shape]) -> list[TensorInfo]:
        self._open_context()
        self._forget()
        self._apply_shapes([(self._inputs[name], shape) for name, shape in shapes.items()], 0)
        self._read_output_shapes()
        return [TensorInfo(port.name, port.dtype, port.last_shape or ()) for port in self._output_ports]

    # --- running ------------------------------------------------------------------------------------------

    def run(
        self,
        inputs: Mapping[str, Any],
        outputs: Mapping[str, Any] | None = None,
        stream: int = 0,
        check: bool = True,
    ) -> dict[str, Any]:
        """Run the engine once; returns every output by name.

        inputs: for each input a C-contiguous numpy array or torch tensor of the engine's type; used in place.
        outputs: arrays or tensors to write into, of exact shape; those not given are made, as torch tensors when
        the first input is one. A given one is returned as it is.
        stream: handle of the CUDA stream for TensorRT; the embedded engine is done when this returns.
        check: False skips the checks of type and memory layout for callers that have done them.
        Raises InputError before anything runs, EngineError when the run itself fails.
        """
        with self._lock:
            context = self._open_context()
            try:
                changed = self._take_inputs(inputs, check)
                if changed or self._has_shape_inputs:
                    self._apply_shapes(changed, stream)
                    self._read_output_shapes()
                results = self._take_outputs(inputs, outputs, check)
                mark = self._logger.mark() if self._logger else 0
                done = context.execute_async_v3(stream)
            except BaseException:
                self._forget()
                raise
            if not done:
                self._forget()
                raise EngineError(f"{self._source()} failed while running{self._said(mark)}.")
            if not self._memory.reads_in_place:
                self._memory.finish(results, stream)
            return results

    def _take_inputs(self, inputs: Mapping[str, Any], check: bool) -> list[tuple[Port, Shape]]:
        """Bind the inputs' addresses; returns those whose shape is not the one the context knows."""
        changed: list[tuple[Port, Shape]] = []
        if type(inputs) is not dict or len(inputs) != len(self._inputs):
            self._check_names(inputs)
        for port in self._input_ports:
            try:
                value = inputs[port.name]
            except KeyError:
                self._check_names(inputs)
                raise
            last = port.last
            if (
                last is not None
                and last() is value
                and value.shape == port.last_shape
                and value.dtype == port.numpy_dtype
            ):
                continue
            if check:
                port.check_value(value)
            address = self._memory.take(port, value)
            shape = tuple(value.shape)
            if shape != port.last_shape:
                changed.append((port, shape))
            self._bind(port, address, value)
        return changed

    def _take_outputs(
        self, inputs: Mapping[str, Any], outputs: Mapping[str, Any] | None, check: bool
    ) -> dict[str, Any]:
        results: dict[str, Any] = {}
        if outputs and (unknown := set(outputs) - set(self._outputs)):
            raise InputError(f"unknown output {min(unknown)!r}; the engine gives {', '.join(self._outputs)}.")
        rebound = False
        for port in self._output_ports:
            value = outputs.get(port.name) if outputs else None
            shape = port.last_shape or ()
            if value is None:
                first = self._input_ports[0].name if self._input_ports else None
                value = self._memory.new(port, shape, inputs[first] if first else None)
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
            self._bind(port, self._memory.take(port, value), value)
            results[port.name] = value
            rebound = True
        if rebound and outputs:
            self._check_overlap()
        return results

    def _bind(self, port: Port, address: int, value: Any) -> None:
        if address != port.address:
            if not self.context.set_tensor_address(port.name, address):
                raise EngineError(f"the engine does not take an address for {port.role} {port.name!r}.")
            port.address = address
        port.nbytes = value.nbytes
        # A weak reference: the session keeps nobody's memory alive. torch tensors can change their storage in
        # place, so only numpy arrays are recognised again.
        in_place = self._memory.reads_in_place and isinstance(value, np.ndarray) and not port.is_shape
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

    # --- shapes -------------------------------------------------------------------------------------------

    def _apply_shapes(self, changed: Iterable[tuple[Port, Shape]], stream: int) -> None:
        changed = list(changed)
        for port, shape in changed:
            port.check_shape(shape)
        for port, shape in changed:
            port.last_shape = shape
        self._check_named_dimensions()
        self._select_profile(stream)
        mark = self._logger.mark() if self._logger else 0
        for port, shape in changed:
            if not self.context.set_input_shape(port.name, shape):
                raise InputError(f"input {port.name!r} cannot have shape {shape}{self._said(mark)}.")

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
                raise EngineError(f"{self._source()} does not switch to optimization profile {index}.")
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

    def _read_output_shapes(self) -> None:
        mark = self._logger.mark() if self._logger else 0
        try:
            missing = self.context.infer_shapes()
        except RuntimeError as problem:
            raise InputError(
                f"the inputs do not fit each other: {self._given()}{self._said(mark) or f' ({problem})'}."
            ) from problem
        if missing:
            raise InputError(
                f"the shapes of the outputs depend on {', '.join(missing)}, not known yet{self._said(mark)}."
            )
        for port in self._output_ports:
            shape = tuple(self.context.get_tensor_shape(port.name))
            if any(dim < 0 for dim in shape):
                raise InputError(
                    f"the engine has no shape for output {port.name!r} with {self._given()}{self._said(mark)}."
                )
            if shape != port.last_shape:
                port.last = None
            port.last_shape = shape

    # --- small things -------------------------------------------------------------------------------------

    def _check_names(self, inputs: Mapping[str, Any]) -> None:
        if not isinstance(inputs, Mapping):
            raise InputError(
                f"inputs is a {type(inputs).__name__}; expected a dict from input name to array."
            )
        takes = "; ".join(port.describe() for port in self._input_ports)
        if unknown := sorted(map(str, set(inputs) - set(self._inputs))):
            raise InputError(f"unknown input {unknown[0]!r}. The engine takes: {takes}.")
        if missing := [name for name in self._inputs if name not in inputs]:
            raise InputError(f"input {missing[0]!r} is missing. The engine takes: {takes}.")

    def _open_context(self) -> Any:
        if self.context is None:
            raise EngineError("this session is closed.")
        return self.context

    def _forget(self) -> None:
        """After a failure nothing is known of what the context was told."""
        for port in (*self._input_ports, *self._output_ports):
            port.last = port.last_shape = None
            port.address = -1

    def _given(self) -> str:
        return ", ".join(f"{port.name} {port.last_shape}" for port in self._input_ports)

    def _source(self) -> str:
        return str(self.engine_dir.engine_path) if self.engine_dir else "the engine"

    def _said(self, mark: int) -> str:
        text = self._logger.errors_since(mark) if self._logger else ""
        return f": {text.rstrip('.')}" if text else ""


def _layer(told: Any) -> dict[str, Any]:
    # TensorRT gives a bare name with layer_names_only, an object with detailed verbosity.
    if not isinstance(told, dict):
        return {"name": str(told)}
    renamed = {"Name": "name", "LayerType": "type"}
    return {renamed.get(str(key), str(key)): value for key, value in told.items()}
