"""The layers and tensors of a network, read through the API once."""

from __future__ import annotations

from typing import Any

from trtllm_ext.oracle.boundaries import CLASS_OF
from trtllm_ext.oracle.call import kind_of
from trtllm_ext.oracle.errors import OracleError


class Parts:
    """Tensors are told apart by identity; names need not be unique inside.

    position: of the layer that makes a tensor. producer: that layer. has_control: whether there are loops or
    conditionals.
    """

    def __init__(self, network: Any, trt: Any) -> None:
        self.trt = trt
        self.network = network
        self.inputs = [network.get_input(i) for i in range(network.num_inputs)]
        self.layers = [network.get_layer(i) for i in range(network.num_layers)]
        # Holding every tensor keeps the Python object of each alive, and with it its identity.
        self.layer_inputs = [[layer.get_input(i) for i in range(layer.num_inputs)] for layer in self.layers]
        self.layer_outputs = [
            [layer.get_output(i) for i in range(layer.num_outputs)] for layer in self.layers
        ]
        self.position = {out: i for i, outs in enumerate(self.layer_outputs) for out in outs}
        self.producer = {out: self.layers[i] for out, i in self.position.items()}
        self.marked = {network.get_output(i) for i in range(network.num_outputs)}
        self.has_control = any(kind_of(layer, trt) in CLASS_OF for layer in self.layers)
        self._named: dict[str, list[Any]] = {}
        for tensor in (*self.inputs, *self.producer):
            self._named.setdefault(str(tensor.name), []).append(tensor)

    def outputs(self) -> list[Any]:
        """What the network has marked. Raises OracleError where that is nothing."""
        found = [self.network.get_output(i) for i in range(self.network.num_outputs)]
        if not found:
            raise OracleError(
                "The network has no outputs. Mark one with mark_output(), or name the wanted tensors."
            )
        return found

    def tensor(self, name: str) -> Any:
        """The one tensor of a name. Raises OracleError where there is none, or more than one."""
        found = self._named.get(name, [])
        if len(found) != 1:
            trouble = "no tensor of that name" if not found else f"{len(found)} tensors of that name"
            raise OracleError(f"Wanted tensor {name!r}: the network has {trouble}.")
        return found[0]
