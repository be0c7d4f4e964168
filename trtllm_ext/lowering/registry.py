"""Which function lowers which kind of layer."""

from collections.abc import Callable

from trtllm_ext.lowering.errors import LoweringError
from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.values import Value

# The value of the output, or one for each output.
Lowering = Callable[[Layer], Value | tuple[Value, ...]]

_LOWERINGS: dict[str, Lowering] = {}


def lowers(kind: str) -> Callable[[Lowering], Lowering]:
    """Register a function for the layers whose `LayerType` has this name."""

    def register(lowering: Lowering) -> Lowering:
        _LOWERINGS[kind] = lowering
        return lowering

    return register


def lowering_of(kind: str, layer_name: str) -> Lowering:
    """The function for a kind of layer; raises LoweringError where there is none."""
    try:
        return _LOWERINGS[kind]
    except KeyError:
        raise LoweringError(
            f"layer {layer_name!r}: the embedded engine does not support layers of kind {kind}. It supports "
            f"{', '.join(sorted(_LOWERINGS))}."
        ) from None


def supported_kinds() -> tuple[str, ...]:
    """Names of the kinds of layers that can be lowered."""
    return tuple(sorted(_LOWERINGS))
