"""What helps where TensorRT says why it does not build a network."""

from collections.abc import Mapping
from typing import Any

# What 8.6 says of a network for which it has no kernel.
_NO_KERNEL = ("Could not find any implementation", "Could not infer output types")
_NO_WORKSPACE = "insufficient workspace"


def way_out(told: str, settings: Mapping[str, Any]) -> str:
    """A sentence to follow what a builder has `told` of a build with these settings; "" where no way is known."""
    if _NO_WORKSPACE in told:
        return " Allow more memory: a larger 'workspace' in memory_pool_limits, or none given."
    # Not precision_constraints='prefer': 8.6 says the same with it.
    precision = settings.get("precision", "float32")
    if (
        precision == "float32"
        or settings.get("strongly_typed")
        or not any(each in told for each in _NO_KERNEL)
    ):
        return ""
    # Encoders with pooling are built without taps and refused with them; one with a float32 stream the other way round.
    return (
        f" It has no kernel for this network in {precision}: build it without taps, if it has any, in float32, or with "
        f"a newer TensorRT."
    )
