"""Sessions of ONNX Runtime over weights that stay where they are.

Weights reach a session as initializers shared by pointer, so a model is loaded without one byte of them being read
or copied (measured: a 1 GB model in 13 ms and 9 MB of memory without prepacking). The model itself still says that
they lie in a file; that file is an empty placeholder in this package, so loading writes nothing, and an optimisation
that wants to look at a weight fails instead of seeing something else. Weights that such an optimisation is meant to
see are handed over a second time, as external initializers, which copies them while the session is being made.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trtllm_ext.embedded.brief import brief
from trtllm_ext.embedded.fusion import FUSIONS_NOT_WORTH_IT, FUSIONS_OF_BASIC_LEVEL, FusionLevel
from trtllm_ext.embedded.running.threads import num_threads
from trtllm_ext.errors import EngineError

if TYPE_CHECKING:
    import onnxruntime

LoadMode = Literal["prepack", "mapped"]

# Where an empty file lies, of the name by which models call their weights.
_PLACEHOLDER = Path(__file__).parent / "placeholder"
# They would turn weights into new weights in private memory.
_WEIGHT_OPTIMIZERS = ("ConstantFolding", "FuseFp16InitializerToFp32NodeTransformer")
_FATAL_ONLY = 4
# What ONNX Runtime says when it looks for a weight in the placeholder.
_READ_OF_PLACEHOLDER = "GetExtDataFromTensorProto"
# What it says to a session that wants threads of its own once the process has a pool.
_POOL_OF_PROCESS = "use_per_session_threads must be false"
_CARRIER = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@dataclass(frozen=True, eq=False)
class SharedWeight:
    """An initializer by pointer. data: 1-D bytes, unchanged for as long as the session lives."""

    name: str
    onnx_type: int
    shape: tuple[int, ...]
    data: np.ndarray[Any, np.dtype[np.uint8]]
    is_folded: bool = False


class SegmentSession:
    """One ONNX segment, ready to run; used by any number of contexts at a time."""

    def __init__(self, session: "onnxruntime.InferenceSession", kept: Sequence[Any]) -> None:
        self.session = session
        # The session has bare pointers to these values and to the memory behind them.
        self._kept = kept


def open_session(
    model: bytes,
    weights: Sequence[SharedWeight],
    mode: LoadMode,
    *,
    fusion_level: FusionLevel = "all",
    process_pool: bool = False,
    threads: int | None = None,
    spins: bool = True,
) -> SegmentSession:
    """Make a session of a model whose large initializers are given by pointer.

    mode: `prepack` lets ONNX Runtime fold and pack weights into memory of its own, fastest to run; `mapped` leaves
    them where they are. fusion_level: how far ONNX Runtime may rewrite the model. process_pool: run on the process's
    thread pool instead of one of its own. threads: size of its own pool, by default `num_threads()`. spins: whether
    those threads wait for work awake, which is fast, and in the way of others.
    Raises EngineError if ONNX Runtime refuses the model.
    """
    import onnxruntime

    values = {weight.name: _value(weight) for weight in weights}
    inject = {weight.name for weight in weights if weight.is_folded and mode == "prepack"}
    while True:
        options = _options(mode, fusion_level, None if process_pool else threads or num_threads())
        if not spins:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        for name, value in values.items():
            options.add_initializer(name, value)
        if inject:
            options.add_external_initializers(sorted(inject), [values[name] for name in sorted(inject)])
        try:
            session = onnxruntime.InferenceSession(
                model,
                options,
                providers=["CPUExecutionProvider"],
                enable_fallback=0,
            )
        except Exception as error:
            # Its exceptions have no common base. One that is about threads says that somebody else in this
            # process made the process's pool, which then is the only one allowed. One that is about the
            # placeholder is cured by handing every weight over. Anything else is about the model.
            if _POOL_OF_PROCESS in str(error) and not process_pool:
                process_pool = True
                continue
            if _READ_OF_PLACEHOLDER not in str(error) or len(inject) == len(values):
                raise EngineError(f"ONNX Runtime refuses a part of the engine: {brief(error)}") from error
            inject = set(values)
        else:
            return SegmentSession(session, (options, values, weights))


def _value(weight: SharedWeight) -> "onnxruntime.OrtValue":
    import onnxruntime

    count = 1
    for length in weight.shape:
        count *= length
    carrier = _CARRIER[len(weight.data) // count]
    array = weight.data.view(carrier).reshape(weight.shape)
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, weight.onnx_type)


def _options(mode: LoadMode, fusion_level: FusionLevel, threads: int | None) -> "onnxruntime.SessionOptions":
    """threads: size of the session's own pool, None for the process's."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    disabled: tuple[str, ...] = _WEIGHT_OPTIMIZERS if mode == "mapped" else ()
    if fusion_level == "basic":
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        disabled += FUSIONS_OF_BASIC_LEVEL
    else:
        disabled += FUSIONS_NOT_WORTH_IT
    options.use_per_session_threads = threads is not None
    if threads is None:
        _make_process_pool()
    else:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(_PLACEHOLDER)
    )
    _make_process_arena()
    options.add_session_config_entry("session.use_env_allocators", "1")
    if mode == "mapped":
        options.add_session_config_entry("session.disable_prepacking", "1")
    else:
        options.add_session_config_entry("session.prepack.enable_parallel", "1")
    if disabled:
        options.add_session_config_entry("optimization.disable_specified_optimizers", ";".join(disabled))
    return options


@functools.cache
def _make_process_pool() -> None:
    """Make the process's thread pool; if something else made one before, that one is used."""
    import onnxruntime

    try:
        onnxruntime.set_global_thread_pool_sizes(num_threads(), 1)
    except Exception as error:
        if "already been created" not in str(error):
            raise EngineError(f"ONNX Runtime cannot make a thread pool: {brief(error)}") from error


@functools.cache
def _make_process_arena() -> None:
    """Make the arena that all engines of the process share; sessions of others do not see it."""
    import onnxruntime

    arena = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(arena, None)
