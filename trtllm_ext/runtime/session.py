"""The session: an engine ready to run, with every input checked before it is."""

import os
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Self

from trtllm_ext import backend
from trtllm_ext.errors import EngineError, InputError, RankError
from trtllm_ext.parallel import Communicator
from trtllm_ext.runtime import own_plugins
from trtllm_ext.runtime.bindings import Bindings
from trtllm_ext.runtime.engine_dir import EngineDir
from trtllm_ext.runtime.input_defaults import InputDefault, defaults_of
from trtllm_ext.runtime.inspector import layers_of
from trtllm_ext.runtime.loading import deserialized, new_context, new_runtime
from trtllm_ext.runtime.memory import DeviceMemory, HostMemory, Memory
from trtllm_ext.runtime.ports import ports_of, profile_shapes
from trtllm_ext.runtime.ranks.loading import load_buffer, load_together, open_engine
from trtllm_ext.runtime.ranks.running import RankedRuns, communicator_for
from trtllm_ext.runtime.run_failure import explain_failure
from trtllm_ext.runtime.tensor_info import TensorInfo
from trtllm_ext.runtime.tensors import Shape
from trtllm_ext.runtime.trt_log import recording_logger
from trtllm_ext.runtime.weight_streaming import set_budget

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
        ranks: RankedRuns | None = None,
        gpu_weights_percent: float | None = None,
        input_defaults: Mapping[str, InputDefault] | None = None,
    ) -> None:
        self.engine = engine
        self.runtime = runtime
        self.engine_dir = engine_dir
        self._buffer = buffer  # an engine may read its weights in place for as long as it lives
        if gpu_weights_percent is not None:
            set_budget(engine, gpu_weights_percent, self._source())
        self.context = new_context(backend.tensorrt(), engine, logger, self._source())
        ports = ports_of(engine, engine_dir.envelope if engine_dir else None)
        self._memory: Memory = HostMemory() if backend.choice().engine == "embedded" else DeviceMemory()
        if input_defaults is None:
            input_defaults = defaults_of(engine_dir.config) if engine_dir else {}
        self._bindings = Bindings(self.context, ports, self._memory, logger, input_defaults)
        self._ranks = ranks
        if ranks is not None:
            ranks.connect(self.context, self._bindings)
        self._lock = threading.Lock()

    # --- making one ---------------------------------------------------------------------------------------

    @classmethod
    def from_engine_dir(
        cls,
        path: str | os.PathLike[str],
        rank: int | None = None,
        load_mode: str = "prepack",
        communicator: Communicator | None = None,
        self_test: bool = True,
        gpu_weights_percent: float = 1.0,
        plugin_library: str | os.PathLike[str] | None = None,
    ) -> "Session":
        """Load a rank's engine of an engine directory, after its envelope has been checked.

        rank: by default the communicator's, or 0.
        load_mode: 'prepack' (fastest to run, weights twice in memory) or 'mapped' (loads at once, weights stay
        in the file and are shared between processes); the embedded engine only. A mapped engine's file must not
        be written into while a session lives: replace it by renaming another over it, as the builder does.
        communicator: to the other ranks, for an engine of several; by default to those that a launcher started with
        this process. It is not closed with the session.
        self_test: an engine of several ranks is tried on the input that was stored with its answer at build.
        gpu_weights_percent: the part of the weights (0 to 1) that the device's memory holds, if built for streaming.
        plugin_library: where this package's compiled plugins are, for an engine that needs them; by default they are
        looked for (`runtime.own_plugins`).
        Raises EngineError for anything missing, damaged, or built for another library or device, and BackendError for a
        plugin_library that is none, or not the one that the process has. With several ranks
        loading and `run` are collective: all do them, and what is wrong on one raises RankError on the others.
        """
        own_plugins.use(plugin_library)
        world = communicator_for(path, rank, communicator)
        load = partial(cls._load, gpu_weights_percent=gpu_weights_percent)
        if world is not None:
            return load_together(load, path, rank, load_mode, world, self_test)
        directory = EngineDir.read(os.fspath(path), rank or 0)
        directory.check_can_run()
        return load(directory.map_engine(), load_mode, directory)

    @classmethod
    def from_serialized_engine(
        cls,
        engine: Any,
        load_mode: str = "prepack",
        communicator: Communicator | None = None,
        gpu_weights_percent: float = 1.0,
        input_defaults: Mapping[str, InputDefault] | None = None,
    ) -> "Session":
        """Load an engine from a buffer: bytes, mmap, or what `Builder.build_engine` returned.

        The buffer is used in place where it can be; do not change it while the session lives.
        communicator: to the other ranks, all of which load theirs, as for `from_engine_dir`; what a directory tells of
        them is not checked. gpu_weights_percent: as for `from_engine_dir`. input_defaults: of inputs that runs may
        leave out, which a directory tells of itself and a buffer does not: `Engine.config.input_defaults`.
        """
        if isinstance(engine, str | os.PathLike):
            raise InputError(
                f"{os.fspath(engine)!r} is a path; give its content, Path(...).read_bytes(), or an engine directory to "
                f"from_engine_dir."
            )
        load = partial(cls._load, gpu_weights_percent=gpu_weights_percent, input_defaults=input_defaults)
        return load_buffer(load, engine, load_mode, communicator)

    @classmethod
    def from_engine(cls, engine: Any, communicator: Communicator | None = None) -> "Session":
        """A session on a `trt.ICudaEngine` that is loaded already; communicator: as for `from_serialized_engine`."""
        return open_engine(cls, engine, communicator)

    @classmethod
    def to_look_at(cls, engine: Any) -> "Session":
        """A buffer's engine by itself, to be looked at; one rank's of several, too, though that cannot be run alone."""
        return cls._load(engine, "prepack", None)

    @classmethod
    def _load(
        cls,
        buffer: Any,
        load_mode: str,
        directory: EngineDir | None,
        ranks: RankedRuns | None = None,
        gpu_weights_percent: float = 1.0,
        input_defaults: Mapping[str, InputDefault] | None = None,
    ) -> "Session":
        if load_mode not in LOAD_MODES:
            raise InputError(f"load_mode={load_mode!r} is not known; it is one of {', '.join(LOAD_MODES)}.")
        trt = backend.tensorrt()
        logger = recording_logger(trt)
        runtime = new_runtime(trt, logger)
        if hasattr(runtime, "load_mode"):
            runtime.load_mode = load_mode
        elif load_mode != "prepack":
            raise InputError(
                f"load_mode={load_mode!r} is for the embedded engine; TensorRT has no such choice."
            )
        if ranks is not None:
            ranks.prepare(runtime)
        engine = deserialized(
            runtime, buffer, logger, str(directory.engine_path) if directory else "the buffer"
        )
        return cls(
            engine,
            runtime=runtime,
            logger=logger,
            engine_dir=directory,
            buffer=buffer,
            ranks=ranks,
            gpu_weights_percent=gpu_weights_percent,
            input_defaults=input_defaults,
        )

    def close(self) -> None:
        """Drop context and engine and free device memory; the session cannot be used afterwards."""
        with self._lock:
            self._memory.close()
            self.context = self.engine = self.runtime = self._buffer = self._bindings.context = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- what it takes and gives --------------------------------------------------------------------------

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """Name, type and shape of each input, in the engine's order; -1 where a dimension may vary."""
        return tuple(TensorInfo(port.name, port.dtype, port.shape) for port in self._bindings.inputs.values())

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The same for the outputs."""
        return tuple(
            TensorInfo(port.name, port.dtype, port.shape) for port in self._bindings.outputs.values()
        )

    @property
    def input_defaults(self) -> dict[str, InputDefault]:
        """The inputs that a run may leave out, such as those of surgery, and what they are given then."""
        return dict(self._bindings.left_out.defaults)

    def profiles(self, name: str) -> list[tuple[Shape, Shape, Shape]]:
        """(min, opt, max) shape of an input in each optimization profile."""
        self._open_context()
        if name not in self._bindings.inputs:
            raise InputError(
                f"{name!r} is not an input; the engine takes {', '.join(self._bindings.inputs)}."
            )
        return profile_shapes(self.engine, name)

    def layers(self) -> list[dict[str, Any]]:
        """The engine's layers as its inspector tells them: at least a name each, more with detailed verbosity."""
        self._open_context()
        return layers_of(self.engine)

    def infer_shapes(self, inputs: Sequence[TensorInfo]) -> list[TensorInfo]:
        """Tell the engine the shapes of all inputs; returns the outputs with the shapes they will have.

        A length that depends on data is -1.
        Raises InputError (a ValueError) for an unknown name, another type, or a shape outside the profiles.
        """
        self._open_context()
        infos = {info.name: info for info in inputs}
        self._bindings.check_names(infos)
        for name, info in infos.items():
            expected = self._bindings.inputs[name].dtype
            if info.dtype != expected:
                raise InputError(f"input {name!r} is announced as {info.dtype}; the engine takes {expected}.")
        return self._set_shapes({name: info.shape for name, info in infos.items()})

    def set_shapes(self, inputs: Mapping[str, Any]) -> list[TensorInfo]:
        """As `infer_shapes`, from arrays, tensors or plain shapes by name."""
        self._open_context()
        self._bindings.check_names(inputs)
        return self._set_shapes(
            {name: tuple(getattr(value, "shape", value)) for name, value in inputs.items()}
        )

    def _set_shapes(self, shapes: dict[str, Shape]) -> list[TensorInfo]:
        with self._lock:
            self._open_context()
            bindings = self._bindings
            shapes = bindings.left_out.completed_shapes(shapes)
            bindings.forget()
            try:
                bindings.set_shapes([(bindings.inputs[name], shape) for name, shape in shapes.items()], 0)
                bindings.read_output_shapes()
            except BaseException:
                bindings.forget()
                raise
            return [
                TensorInfo(port.name, port.dtype, port.last_shape or ()) for port in bindings.outputs.values()
            ]

    # --- running ------------------------------------------------------------------------------------------

    def run(
        self,
        inputs: Mapping[str, Any],
        outputs: Mapping[str, Any] | None = None,
        stream: int = 0,
        check: bool = True,
    ) -> dict[str, Any]:
        """Run the engine once; returns every output by name.

        inputs: for each input a C-contiguous numpy array or torch tensor of the engine's type; used in place. Those of
        `input_defaults` may be left out.
        outputs: arrays or tensors to write into, of exact shape; those not given are made, as torch tensors when
        the first input is one. A given one is returned as it is. One whose shape depends on data is always made.
        stream: handle of the CUDA stream for TensorRT; the embedded engine is done when this returns.
        check: False skips the checks of type and memory layout for callers that have done them, and, between ranks,
        the comparison of values.
        Raises InputError before anything runs, EngineError when the run itself fails. With several ranks an input
        that one of them refuses, or that differs between them, is an error on all, and nothing runs; what
        fails later ends the world of ranks, with RankError on the others.
        """
        with self._lock:
            bindings, ranks = self._bindings, self._ranks
            inputs = bindings.completed(inputs)
            try:
                if ranks is None:
                    results = self._bind(inputs, outputs, stream, check)
                else:
                    results = ranks.bind(
                        bindings, inputs, check, lambda: self._bind(inputs, outputs, stream, check)
                    )
                context = self.context
                mark = bindings.mark()
                done = context.execute_async_v3(stream)
            except BaseException:
                bindings.forget()
                raise
            if not done:
                bindings.forget()
                raise self._failure(bindings.said(mark).removeprefix(": "))
            if not self._memory.reads_in_place:
                self._memory.finish(results, stream)
            bindings.take_late(results)
            return results

    def _failure(self, said: str) -> EngineError | RankError:
        text = f"{self._source()} failed while running: {explain_failure(said or 'no reason was logged')}."
        if self._ranks is not None:
            return self._ranks.failure(self.context, text)
        return EngineError(text)

    def _bind(self, *what: Any) -> dict[str, Any]:
        self._open_context()
        return self._bindings.bind(*what)

    def _open_context(self) -> Any:
        if self.context is None:
            raise EngineError("this session is closed.")
        return self.context

    def _source(self) -> str:
        return str(self.engine_dir.engine_path) if self.engine_dir else "the engine"
