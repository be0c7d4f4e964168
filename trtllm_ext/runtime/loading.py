"""From a buffer to a `trt.ICudaEngine`, and what keeps it from getting there as a sentence."""

import os
from typing import Any

from trtllm_ext.errors import BackendError, EngineError

# Set to 1 by who trusts the engines: those built version-compatible bring code of TensorRT's for the processor.
HOST_CODE_VARIABLE = "TRTLLM_EXT_ALLOW_HOST_CODE"


def host_code_allowed() -> bool:
    """Whether engines may bring code that runs on the host."""
    return os.environ.get(HOST_CODE_VARIABLE) == "1"


def new_runtime(trt: Any, logger: Any) -> Any:
    """A `trt.Runtime`. logger: a recording one. Raises BackendError when it does not start."""
    try:
        runtime = trt.Runtime(logger.given)
        if hasattr(runtime, "engine_host_code_allowed"):
            runtime.engine_host_code_allowed = host_code_allowed()
        return runtime
    except (TypeError, RuntimeError) as problem:  # what a failing C++ factory becomes
        raise BackendError(
            f"TensorRT's runtime does not start: {logger.errors_since(0) or problem}"
        ) from problem


def deserialized(runtime: Any, buffer: Any, logger: Any, source: str) -> Any:
    """The engine that a buffer holds. source: what messages call it. Raises EngineError for anything else."""
    try:
        engine = runtime.deserialize_cuda_engine(buffer)
    except TypeError as problem:
        raise EngineError(
            f"an engine must be bytes or another buffer, not a {type(buffer).__name__}."
        ) from problem
    if engine is None:
        raise EngineError(
            f"{source} is not an engine that can be loaded here: "
            f"{logger.errors_since(0) or 'no reason was logged'}"
        )
    return engine


def new_context(trt: Any, engine: Any, logger: Any, source: str) -> Any:
    """An execution context of an engine. logger: a recording one, or None.

    Raises EngineError, for an engine that was stripped of its weights with what to do.
    """
    if _lacks_weights(trt, engine):
        raise EngineError(
            f"{source} holds no weights: it was built with use_strip_plan. Put them in with `trtllm-ext refit "
            f"--engine_dir ENGINES --checkpoint_dir CHECKPOINT --output_dir FILLED`, and load what that writes."
        )
    context = engine.create_execution_context()
    if context is None:
        said = f": {logger.errors_since(0)}" if logger is not None else ""
        raise EngineError(f"no execution context could be made for {source}{said}.")
    return context


def _lacks_weights(trt: Any, engine: Any) -> bool:
    if not hasattr(trt, "EngineStat"):
        return False
    return bool(engine.get_engine_stat(trt.EngineStat.STRIPPED_WEIGHTS_SIZE) > 0)
