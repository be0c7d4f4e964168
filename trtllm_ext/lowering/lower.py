"""An `INetworkDefinition` becomes ONNX."""

from collections.abc import Mapping, Sequence, Set
from typing import Any

# The families register their functions when they are imported.
from trtllm_ext.lowering import (  # noqa: F401
    activation,
    arithmetic,
    conditionals,
    conversion,
    convolution,
    einsum,
    expansion,
    fill,
    loops,
    matmul,
    movement,
    normalization,
    pooling,
    quantization,
    reduction,
    resize,
    scaling,
    selection,
    sequences,
    slicing,
    unit_axes,
)
from trtllm_ext.lowering.cutting import is_cut, lower_parts
from trtllm_ext.lowering.element_types import onnx_type_of_port
from trtllm_ext.lowering.emitter import Emitter
from trtllm_ext.lowering.lower_layers import lower_layers
from trtllm_ext.lowering.network_view import NetworkView
from trtllm_ext.lowering.steps import Expansion, Lowered, Source
from trtllm_ext.lowering.values import Symbol, Value


def lower(
    network: Any,
    trt: Any,
    min_shapes: Mapping[str, tuple[int, ...]] | None = None,
    refittable: Set[Source] = frozenset(),
    also: Sequence[Any] = (),
    fuses_bias: bool = True,
    *,
    expansions: Mapping[str, Expansion] | None = None,
    weights: Mapping[str, Any] | None = None,
    standard: bool = False,
) -> Lowered:
    """Express a network as steps that ONNX Runtime can execute.

    network, trt: an `INetworkDefinition`, and the module it belongs to (TensorRT itself or a module of its API).
    min_shapes: by input, the least length that each dimension will have; 0 where nothing is said.
    refittable: weights that stay exchangeable: each gets an initializer of its own, whose `source` it is.
    also: tensors of the network that become outputs besides its own.
    fuses_bias: whether a product may take up the bias behind it, which it does not where the product is an output.
    expansions: by the name of a plugin layer, what it is written out as; without one a plugin is a step of its own.
    weights: by the name of a constant layer, its elements where the library gives no array of them.
    standard: use ONNX's own operators alone, and none of ONNX Runtime's.
    Weights are borrowed from the network, not copied: use the result while they are alive.
    Raises LoweringError for layers, operations or types that the embedded engine lacks.
    """
    view = NetworkView(network, trt, also, expansions, weights)
    view.refittable = refittable
    view.fuses_bias = fuses_bias
    view.standard = standard
    emitter = Emitter()
    for tensor in view.outputs:
        emitter.names.reserve(tensor.name)
    values: dict[int, Value] = {id(tensor): _input(emitter, tensor) for tensor in view.inputs}
    for tensor in view.inputs:
        least = (min_shapes or {}).get(tensor.name, ())
        lengths = zip(values[id(tensor)].symbols, least, strict=False)
        view.positive.update(symbol for symbol, length in lengths if symbol is not None and length > 0)
    name = network.name or "network"
    if is_cut(view):
        return lower_parts(view, name, values)
    lower_layers(emitter, view, view.layers, values)
    for tensor in view.outputs:
        onnx_type_of_port(tensor.dtype, f"network output {tensor.name!r}")
        emitter.output(tensor.name, values[id(tensor)])
    return Lowered((emitter.segment(name),))


def _input(emitter: Emitter, tensor: Any) -> Value:
    name: str = tensor.name
    shape = tuple(tensor.shape)
    get_name = getattr(tensor, "get_dimension_name", lambda axis: None)
    given = [get_name(axis) for axis in range(len(shape))]
    symbols = [
        Symbol(name, axis) if dim_name is None else Symbol(dim_name) for axis, dim_name in enumerate(given)
    ]
    return emitter.input(name, onnx_type_of_port(tensor.dtype, f"network input {name!r}"), shape, symbols)
