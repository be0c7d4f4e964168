"""How many of an engine's weights the device's memory holds while it runs."""

from typing import Any

from trtllm_ext.errors import EngineError, InputError


def set_budget(engine: Any, gpu_weights_percent: float, source: str) -> None:
    """Keep that part of an engine's weights in the device's memory; to be called before a context is made.

    An engine built with weight_streaming keeps, unless told, whatever TensorRT thinks best; one built without has all
    its weights there. source: what messages call the engine.
    Raises InputError when a part is asked of an engine that streams nothing, EngineError when TensorRT refuses it.
    """
    _check_fraction(gpu_weights_percent)
    streamable = getattr(engine, "streamable_weights_size", 0)
    if not streamable:
        if gpu_weights_percent != 1:
            raise InputError(
                f"gpu_weights_percent={gpu_weights_percent} is asked for, but {source} streams no weights. Build it "
                f"with weight_streaming, or leave it out."
            )
        return
    budget = int(gpu_weights_percent * streamable)
    engine.weight_streaming_budget_v2 = budget
    if engine.weight_streaming_budget_v2 != budget:
        raise EngineError(
            f"TensorRT keeps {engine.weight_streaming_budget_v2} bytes of the weights of {source} at hand, not the "
            f"{budget} that gpu_weights_percent={gpu_weights_percent} asks for. Give another part."
        )


def _check_fraction(gpu_weights_percent: float) -> None:
    is_number = isinstance(gpu_weights_percent, int | float) and not isinstance(gpu_weights_percent, bool)
    if not is_number or not 0 <= gpu_weights_percent <= 1:  # "percent" is TensorRT-LLM's word for a fraction
        raise InputError(
            f"gpu_weights_percent={gpu_weights_percent!r} is no part of the weights; give 0 (all streamed) to 1 (all "
            f"in the device's memory), such as 0.25 for 25 %."
        )
