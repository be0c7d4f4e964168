"""From a call of TensorRT's `add_*` to a Tensor, with every failure turned into a GraphError."""

from collections.abc import Sequence
from typing import Any

from trtllm_ext.errors import GraphError
from trtllm_ext.graph.network import current_net, default_net
from trtllm_ext.graph.tensor import Tensor
from trtllm_ext.runtime.dtypes import readable


def add_layer(method: str, *args: Any, **kwargs: Any) -> Any:
    """Call `default_trtnet().<method>` with Tensors unwrapped; returns the layer.

    Raises GraphError with what TensorRT logged when the layer cannot be made.
    """
    network = default_net()
    network._log_mark = network.log_mark()
    try:
        layer = getattr(network.trt_network, method)(
            *[_unwrapped(value) for value in args],
            **{name: _unwrapped(value) for name, value in kwargs.items()},
        )
    except TypeError as error:
        raise fail(f"{method} does not take {describe(*args, *kwargs.values())}: {error}") from error
    if layer is None:
        logged = network.logged_since(network._log_mark)
        raise fail(f"{method} refuses {describe(*args, *kwargs.values())}: {logged}")
    return layer


def output(layer: Any, dtype: Any = None) -> Tensor:
    """The first output of a layer whose attributes are all set.

    dtype: the output's type, to be pinned in weakly typed networks; None leaves it to the layer.
    """
    return _create_tensor(layer.get_output(0), layer, dtype)


def outputs(layer: Any, dtypes: Sequence[Any]) -> tuple[Tensor, ...]:
    """All outputs of a layer whose attributes are all set.

    dtypes: their types, to be pinned in weakly typed networks.
    """
    default_net().name_layer(layer)
    default_net().set_layer_types(layer, *dtypes)
    return tuple(_create_tensor(layer.get_output(index), layer) for index in range(layer.num_outputs))


def _create_tensor(trt_tensor: Any, producer: Any, dtype: Any = None) -> Tensor:
    """A Tensor for an `ITensor` that the layer `producer` gives; names the layer and its outputs.

    Raises GraphError when the layer's shapes do not work out.
    """
    if trt_tensor is None or producer is None:
        raise fail("the layer was not made: TensorRT returned None")
    network = default_net()
    network.name_layer(producer)
    network.set_layer_types(producer, dtype)
    tensor = Tensor(trt_tensor=trt_tensor, network=network, is_network_input=False)
    tensor.producer = producer
    try:
        tensor.trt_shape()
    except ValueError:
        inputs = [producer.get_input(i) for i in range(producer.num_inputs)]
        given = ", ".join(
            f"{readable(network.type_of(each))} {_shape_text(each)}" for each in inputs if each is not None
        )
        reason = network.logged_since(network._log_mark).removeprefix(f"{producer.name}: ")
        raise GraphError(f"{producer.name} does not work out for the inputs {given}: {reason}") from None
    return tensor


def fail(reason: str) -> GraphError:
    """A GraphError that says where in the model it happened, if that is inside of `net_guard`."""
    network = current_net()
    place = "" if network is None else network.place()
    return GraphError(f"{place}: {reason}" if place else reason)


def describe(*values: Any) -> str:
    """Arguments for an error message: tensors by type and shape, the rest as they print."""
    parts = []
    for value in values:
        if isinstance(value, Tensor):
            parts.append(f"{readable(value.dtype)} {value.shape}")
        elif isinstance(value, list | tuple) and any(isinstance(item, Tensor) for item in value):
            parts.append(f"[{describe(*value)}]")
        else:
            parts.append(str(value))
    return ", ".join(parts)


def _shape_text(trt_tensor: Any) -> str:
    try:
        return str(tuple(trt_tensor.shape))
    except ValueError:
        return "of unknown shape"


def _unwrapped(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.trt_tensor
    if isinstance(value, list | tuple) and any(isinstance(item, Tensor) for item in value):
        return [_unwrapped(item) for item in value]
    return value
