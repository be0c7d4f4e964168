"""Engines: what was built, ready to be run by any number of contexts."""

from collections.abc import Mapping
from typing import Any, Literal
from weakref import WeakSet

from trtllm_ext.embedded.enums import (
    DataType,
    EngineCapability,
    ExecutionContextAllocationStrategy,
    HardwareCompatibilityLevel,
    ProfilingVerbosity,
    TensorFormat,
    TensorIOMode,
    TensorLocation,
)
from trtllm_ext.embedded.logger import ILogger
from trtllm_ext.embedded.plan import CollectiveInfo, CollectiveStep, Range, TensorRecord
from trtllm_ext.embedded.plan.blocks import Bytes
from trtllm_ext.embedded.plan.rewriting import WeightPlace
from trtllm_ext.embedded.running.context import IExecutionContext
from trtllm_ext.embedded.running.inspector import EngineInspector
from trtllm_ext.embedded.running.loading import LoadedPlan
from trtllm_ext.embedded.running.serializing import Serializing
from trtllm_ext.embedded.running.settings import IRuntimeConfig
from trtllm_ext.embedded.running.stepped import execution_of
from trtllm_ext.embedded.running.weight_streaming import WeightStreaming
from trtllm_ext.embedded.surface.lifetime import Lifetime
from trtllm_ext.embedded.types import Dims, index_of
from trtllm_ext.errors import EngineError


class ICudaEngine(Serializing, WeightStreaming, Lifetime):
    """An engine. Made by `Runtime.deserialize_cuda_engine()`; the name is TensorRT's, nothing here needs CUDA.

    Questions about a tensor that is not there log an error and get the answer that TensorRT gives: invalid dims,
    DataType.FLOAT, TensorIOMode.NONE.
    """

    __slots__ = (
        "__weakref__",
        "_contexts",
        "_header",
        "_loaded",
        "_tensors",
    )

    def __init__(self, loaded: LoadedPlan, logger: ILogger) -> None:
        self._report_to(logger)
        weights_bytes = sum(weight.nbytes for weight in loaded.plan.header.weights)
        self._stream(weights_bytes if loaded.plan.header.is_streamable else 0)
        self._contexts: WeakSet[IExecutionContext] = WeakSet()
        self._loaded: LoadedPlan | None = loaded
        self._header = loaded.plan.header
        self._tensors: Mapping[str, TensorRecord] = loaded.tensors

    def __del__(self) -> None:
        self._loaded = None

    # The engine as a whole

    @property
    def name(self) -> str:
        """Name of the network that it was built from."""
        return self._header.name

    @property
    def num_layers(self) -> int:
        """Number of layers of the network."""
        return self._header.num_layers

    @property
    def num_optimization_profiles(self) -> int:
        """Number of profiles, at least 1."""
        return len(self._header.profiles)

    @property
    def profiling_verbosity(self) -> ProfilingVerbosity:
        """How much the inspector tells."""
        return ProfilingVerbosity[self._header.verbosity]

    @property
    def refittable(self) -> bool:
        """Whether a Refitter can exchange weights: built with a refit flag."""
        return self._header.is_refittable

    @property
    def has_implicit_batch_dimension(self) -> bool:
        """Always False."""
        return False

    @property
    def engine_capability(self) -> EngineCapability:
        """Always STANDARD."""
        return EngineCapability.STANDARD

    @property
    def hardware_compatibility_level(self) -> HardwareCompatibilityLevel:
        """Always NONE: there is no GPU to be compatible with."""
        return HardwareCompatibilityLevel.NONE

    @property
    def tactic_sources(self) -> int:
        """Always 0: no kernels are chosen."""
        return 0

    @property
    def num_aux_streams(self) -> int:
        """Always 0: runs are synchronous."""
        return 0

    @property
    def device_memory_size(self) -> int:
        """Bytes that a context wants from its user: 0, memory for a run comes from an arena of the process."""
        return 0

    @property
    def device_memory_size_v2(self) -> int:
        """As `device_memory_size`."""
        return 0

    def get_device_memory_size_for_profile(self, profile_index: int) -> int:
        """As `device_memory_size`, for one profile."""
        return 0

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        """As `device_memory_size`, for one profile."""
        return 0

    @property
    def collectives(self) -> tuple[CollectiveInfo, ...]:
        """What this engine does together with those of other ranks: each kind once, with its largest size."""
        return self._header.collectives

    @property
    def collective_steps(self) -> tuple[CollectiveStep, ...]:
        """Each collective by itself, in the order in which they run."""
        return self._header.collective_steps

    def create_execution_context(
        self,
        strategy: ExecutionContextAllocationStrategy
        | IRuntimeConfig = ExecutionContextAllocationStrategy.STATIC,
        runtime_config: IRuntimeConfig | None = None,
    ) -> IExecutionContext | None:
        """A context to run the engine with, made by a strategy or by a runtime config.

        None, with an error in the log, if the engine was deleted, or was stripped of weights and not refit.
        """
        if self._loaded is None:
            self._refuse("create_execution_context", "the engine was deleted.")
            return None
        config = strategy if isinstance(strategy, IRuntimeConfig) else runtime_config
        if config is None:
            config = self.create_runtime_config()
            config.set_execution_context_allocation_strategy(ExecutionContextAllocationStrategy(strategy))
        try:
            context = IExecutionContext(self, self._loaded, self._logger, config)
        except EngineError as error:
            self._refuse("create_execution_context", str(error))
            return None
        self._contexts.add(context)
        return context

    def _exchange(self, weights: Mapping[WeightPlace, Bytes]) -> None:
        """Let this engine and its contexts run with other weights. Raises EngineError if they are refused."""
        if self._loaded is None:
            raise EngineError("the engine was deleted.")
        with self._loaded.segments.exchanged(weights):
            renewed = [(context, execution_of(self._loaded)) for context in list(self._contexts)]
        for context, execution in renewed:
            context._renew(execution)

    def create_runtime_config(self) -> IRuntimeConfig:
        """A config with the default strategy."""
        return IRuntimeConfig()

    def create_execution_context_without_device_memory(self) -> IExecutionContext | None:
        """As `create_execution_context()`: contexts have no device memory of their own."""
        return self.create_execution_context(ExecutionContextAllocationStrategy.USER_MANAGED)

    def create_engine_inspector(self) -> EngineInspector:
        """An inspector that prints the layers."""
        header = self._header
        return EngineInspector(header.layers, list(self._tensors), self._logger, header.plugins)

    # Inputs and outputs

    @property
    def num_io_tensors(self) -> int:
        """Number of inputs and outputs."""
        return len(self._tensors)

    def get_tensor_name(self, index: int) -> str | None:
        """Name of an input or output, inputs first; None, with an error in the log, beyond the last."""
        if not 0 <= index_of(index, "index") < len(self._header.tensors):
            self._refuse(
                "get_tensor_name", f"there is no tensor {index}; the engine has {len(self._header.tensors)}."
            )
            return None
        return self._header.tensors[index].name

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f"there is no tensor {index}; the engine has {len(self)}.")
        return self._header.tensors[index].name

    def __len__(self) -> int:
        return len(self._header.tensors)

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        """Whether a tensor is an input or an output."""
        record = self._record("get_tensor_mode", name)
        if record is None:
            return TensorIOMode.NONE
        return TensorIOMode.INPUT if record.is_input else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        """Type of a tensor's elements."""
        record = self._record("get_tensor_dtype", name)
        if record is None or self._loaded is None:
            return DataType.FLOAT
        return self._loaded.elements[name].dtype

    def get_tensor_shape(self, name: str) -> Dims:
        """Shape of a tensor, with -1 where it is only known at run time."""
        record = self._record("get_tensor_shape", name)
        return Dims._invalid() if record is None else Dims(record.shape)

    def get_tensor_location(self, name: str) -> TensorLocation:
        """Always HOST for values that shapes depend on, else DEVICE, as TensorRT says; all memory is host memory."""
        record = self._record("get_tensor_location", name)
        is_shape = record is not None and (record.is_shape_input or record.is_shape_output)
        return TensorLocation.HOST if is_shape else TensorLocation.DEVICE

    def get_tensor_format(self, name: str, profile_index: int = 0) -> TensorFormat:
        """Always LINEAR."""
        self._record("get_tensor_format", name)
        return TensorFormat.LINEAR

    def get_tensor_format_desc(self, name: str, profile_index: int = 0) -> str:
        """The format and the type in words."""
        record = self._record("get_tensor_format_desc", name)
        return "" if record is None else f"Row-major linear {record.dtype} format (kLINEAR)"

    def get_tensor_bytes_per_component(self, name: str, profile_index: int = 0) -> int:
        """Bytes of an element; -1 for an unknown tensor."""
        record = self._record("get_tensor_bytes_per_component", name)
        if record is None or self._loaded is None:
            return -1
        return int(self._loaded.elements[name].storage.itemsize)

    def get_tensor_components_per_element(self, name: str, profile_index: int = 0) -> int:
        """Always 1, or -1 for an unknown tensor."""
        return -1 if self._record("get_tensor_components_per_element", name) is None else 1

    def get_tensor_vectorized_dim(self, name: str, profile_index: int = 0) -> int:
        """Always -1: no format is vectorized."""
        self._record("get_tensor_vectorized_dim", name)
        return -1

    def is_shape_inference_io(self, name: str) -> bool:
        """Whether the value of an input decides about the shape of an output, or that of an output is a shape."""
        record = self._record("is_shape_inference_io", name)
        return record is not None and (record.is_shape_input or record.is_shape_output)

    def is_debug_tensor(self, name: str) -> bool:
        """Whether a tensor was marked by `mark_debug()` in the network."""
        return any(tensor.name == name for tensor in self._header.debug)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        """[min, opt, max] of an input's shape; an empty list, with an error in the log, if there is none."""
        return [
            Dims(shape) for shape in self._range("get_tensor_profile_shape", name, profile_index, "shapes")
        ]

    def get_tensor_profile_values(self, name: str, profile_index: int) -> list[list[int]]:
        """[min, opt, max] of a shape input's values; an empty list, with an error in the log, if there is none."""
        return [
            list(values) for values in self._range("get_tensor_profile_values", name, profile_index, "values")
        ]

    def _range(
        self, method: str, name: str, profile_index: int, kind: Literal["shapes", "values"]
    ) -> Range | tuple[()]:
        profiles = self._header.profiles
        if not 0 <= index_of(profile_index, "profile_index") < len(profiles):
            self._refuse(method, f"there is no profile {profile_index}; the engine has {len(profiles)}.")
            return ()
        profile = profiles[profile_index]
        ranges = profile.shapes if kind == "shapes" else profile.values
        if name not in ranges:
            wanted = "an input" if kind == "shapes" else "a shape input"
            self._refuse(method, f"{name!r} is not {wanted} of the engine; there are {_names(ranges)}.")
            return ()
        return ranges[name]

    def _record(self, method: str, name: str) -> TensorRecord | None:
        if not isinstance(name, str):
            raise TypeError(f"name must be a str, not {name!r}")
        record = self._tensors.get(name)
        if record is None:
            self._refuse(method, f"there is no {name!r}; there are {_names(self._tensors)}.")
        return record

    def _refuse(self, method: str, reason: str) -> None:
        self._report(f"{method}: {reason}")


def _names(known: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, known)) or "none"
