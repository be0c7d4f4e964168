"""Building and running a case through TensorRT's API on host memory, as the embedded engine allows."""

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from zoo import NUMPY, Case, Feed, add_profile, define

# What was logged about an engine, which itself takes no attributes that TensorRT's has not.
_LOGGERS: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


class EngineFailedError(Exception):
    """A step of TensorRT's API said no; the text is what was logged."""


def recording_logger(trt: Any) -> Any:
    """An ILogger that keeps every warning and error in `.messages`."""

    class Recorder(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.messages: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if int(severity) <= int(trt.ILogger.Severity.WARNING):
                self.messages.append(msg)

    return Recorder()


def network_and_engine(case: Case, trt: Any, feeds: list[Feed]) -> tuple[Any, Any]:
    """The network (the oracle reads it) and the engine built from it, through a plan and back."""
    logger = recording_logger(trt)
    builder = trt.Builder(logger)
    network = define(case, trt, builder)
    config = builder.create_builder_config()
    add_profile(builder, network, config, case, feeds)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineFailedError("build: " + " | ".join(logger.messages))
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineFailedError("deserialize: " + " | ".join(logger.messages))
    _LOGGERS[engine] = logger
    return network, engine


def run(engine: Any, trt: Any, feed: Feed, context: Any = None) -> dict[str, np.ndarray]:
    """The engine's outputs for one feed, each at the exact shape that the context infers for it.

    Where only the run tells the shape, an output allocator takes it.
    """
    context = context or engine.create_execution_context()
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
    kept = {}
    for name in inputs:
        kept[name] = np.asarray(feed[name], order="C")
        _must(engine, context.set_input_shape(name, kept[name].shape), f"set_input_shape({name})")
        _must(engine, context.set_tensor_address(name, kept[name].ctypes.data), f"set_tensor_address({name})")
    outputs, late = {}, {}
    for name in set(names) - set(inputs):
        type_name = str(engine.get_tensor_dtype(name)).split(".")[1]
        # Filled, so that an element which the engine does not write shows.
        shape = tuple(context.get_tensor_shape(name))
        if -1 in shape:
            late[name] = output_allocator(trt)
            _must(engine, context.set_output_allocator(name, late[name]), f"set_output_allocator({name})")
            continue
        outputs[name] = np.full(shape, 85, np.uint8).astype(NUMPY[type_name])
        address = outputs[name].ctypes.data
        _must(engine, context.set_tensor_address(name, address), f"set_tensor_address({name})")
    _must(engine, context.execute_async_v3(0), "execute_async_v3")
    for name, allocator in late.items():
        outputs[name] = allocator.array(NUMPY[str(engine.get_tensor_dtype(name)).split(".")[1]])
    return outputs


def output_allocator(trt: Any) -> Any:
    """An IOutputAllocator over numpy memory; after a run `.array(dtype)` is the output."""

    class Allocator(trt.IOutputAllocator):
        def __init__(self) -> None:
            super().__init__()
            self.room = np.empty(0, np.uint8)
            self.shape: tuple[int, ...] | None = None

        def reallocate_output_async(
            self, tensor_name: str, memory: int, size: int, alignment: int, stream: int
        ) -> int:
            self.room, self.shape = np.full(size + alignment, 85, np.uint8), None
            self.skipped = -self.room.ctypes.data % alignment
            return int(self.room.ctypes.data + self.skipped)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            self.shape = tuple(shape)

        def array(self, kind: np.dtype[Any]) -> np.ndarray:
            assert self.shape is not None
            count = int(np.prod(self.shape))
            return np.frombuffer(self.room, kind, count, self.skipped).reshape(self.shape)

    return Allocator()


def _must(engine: Any, said_yes: bool, step: str) -> None:
    if not said_yes:
        raise EngineFailedError(f"{step}: " + " | ".join(_LOGGERS[engine].messages))
