"""A network being defined, and which one that is: `net_guard`, `default_net`."""

import sys
from collections.abc import Callable, Iterable
from contextvars import ContextVar, Token
from types import CodeType
from typing import TYPE_CHECKING, Any

from trtllm_ext.backend import tensorrt
from trtllm_ext.errors import GraphError
from trtllm_ext.graph import naming
from trtllm_ext.graph.dtypes import is_float, to_trt_dtype
from trtllm_ext.graph.plugin_config import PluginConfig
from trtllm_ext.runtime.dtypes import readable

if TYPE_CHECKING:
    from trtllm_ext.graph.parameter import Parameter
    from trtllm_ext.graph.plugin_record import PluginRecord
    from trtllm_ext.graph.tensor import Tensor

# A context variable, not a global: networks may be defined in several threads at once.
_CURRENT: ContextVar["Network | None"] = ContextVar("trtllm_ext_network", default=None)

# These layers move data or take their type from elsewhere: they have no precision to set.
_NO_PRECISION = frozenset(
    "SHAPE CONSTANT GATHER CONCATENATION SHUFFLE SLICE SELECT IDENTITY FILL".split()  # noqa: SIM905 - a table
)
_NO_OUTPUT_TYPE = ("SHAPE",)


class Network:
    """An `INetworkDefinition` with the tensors, arrays and names that belong to it.

    Made by `Builder.create_network()`. `logger` is the Builder's logger when it remembers what it was told
    (`mark()`, `errors_since(mark)`), so that an error carries TensorRT's own words.
    """

    def __init__(self, trt_network: Any, logger: Any = None) -> None:
        self._trt_network = trt_network
        self._logger = logger if hasattr(logger, "errors_since") else None
        self._dtype: Any = None
        self._inputs: dict[str, Tensor] = {}
        self._outputs: dict[str, Tensor] = {}
        self._named_parameters: list[tuple[str, Parameter]] | None = None
        self._arrays: list[Any] = []
        # By the name of a layer, what TensorRT does not give back: elements of constants, records of plugins.
        self.host_weights: dict[str, Any] = {}
        self.plugins: dict[str, PluginRecord] = {}
        self._label_counts: dict[str, int] = {}
        self._layer_names: set[str] = set()
        self._parameters: dict[int, tuple[Parameter, Tensor]] = {}
        self._guarded_by: CodeType | None = None
        self._log_mark = 0
        # By a tensor's name, as an ITensor tells no layer: the type of a plugin's output. TensorRT 8.6 tells float32
        # until it builds, also where the layer's output type is set.
        self._told_types: dict[str, Any] = {}
        # By a layer's name: the operation and the ranks, which TensorRT's layer itself does not tell.
        self.collectives: dict[str, tuple[str, tuple[int, ...]]] = {}
        self.modules = naming.ModulePath()
        self.plugin_config = PluginConfig()
        # Patterns of noted tensors that are to become outputs.
        self.tap_patterns: tuple[str, ...] = ()

    @property
    def trt_network(self) -> Any:
        """The `INetworkDefinition`."""
        return self._trt_network

    @property
    def strongly_typed(self) -> bool:
        """Whether types follow from the inputs alone: never in TensorRT 8.6, always in 11, else as the flag says."""
        trt = tensorrt()
        if not hasattr(trt.ILayer, "set_output_type"):
            return True  # whatever the flag, which is kept for its name's sake only
        flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return flag is not None and bool(self._trt_network.get_flag(flag))

    @property
    def dtype(self) -> Any:
        """The precision that `precision(...)` asks of the layers of a weakly typed network; None outside of it."""
        return self._dtype

    @dtype.setter
    def dtype(self, dtype: Any) -> None:
        self._dtype = None if dtype is None else to_trt_dtype(dtype)

    # --- parameters and arrays ---------------------------------------------------------------------------------

    def set_named_parameters(self, named_parameters: "Iterable[tuple[str, Parameter]]") -> None:
        """Tell the network the names of the model's parameters. A generator is read once and kept as a list."""
        self._named_parameters = list(named_parameters)

    @property
    def named_parameters(self) -> "list[tuple[str, Parameter]] | None":
        """(name, parameter) as given to `set_named_parameters`; None before."""
        return self._named_parameters

    def register_ndarray(self, ndarray: Any) -> None:
        """Keep an array alive as long as the network: TensorRT reads constants only when it builds."""
        self._arrays.append(ndarray)

    def constant_of(self, parameter: "Parameter", make: "Callable[[], Tensor]") -> "Tensor":
        """The constant for a parameter: made once, then the same Tensor."""
        known = self._parameters.get(id(parameter))
        if known is None:
            # The parameter is kept too, so that its id is not given to another one.
            known = self._parameters[id(parameter)] = (parameter, make())
        return known[1]

    def uses(self, parameter: "Parameter") -> bool:
        """Whether a parameter has become a constant of this network."""
        return id(parameter) in self._parameters

    def parameter_name(self, parameter: "Parameter") -> str | None:
        """The dotted name of a parameter in the model being defined, or None."""
        for name, known in self._named_parameters or ():
            if known is parameter:
                return name
        return self.modules.parameter_name(parameter)

    # --- inputs, outputs, layers -------------------------------------------------------------------------------

    def get_inputs(self) -> "list[Tensor]":
        """The network's inputs in order of creation; `Tensor.profiles` holds their ranges."""
        return list(self._inputs.values())

    def get_outputs(self) -> "list[Tensor]":
        """The tensors marked as outputs, in order."""
        return list(self._outputs.values())

    def is_input(self, tensor: "Tensor") -> bool:
        """Whether a tensor is an input of this network."""
        return any(known.trt_tensor is tensor.trt_tensor for known in self._inputs.values())

    def is_output(self, tensor: "Tensor") -> bool:
        """Whether a tensor is marked as an output of this network."""
        return any(known.trt_tensor is tensor.trt_tensor for known in self._outputs.values())

    def get_layers(self) -> list[Any]:
        """The `ILayer` objects in order of creation."""
        return [self._trt_network.get_layer(i) for i in range(self._trt_network.num_layers)]

    def get_layer_by_name(self, name: str) -> Any:
        """The layer of that name. Raises GraphError when there is none."""
        for layer in self.get_layers():
            if layer.name == name:
                return layer
        raise GraphError(f"the network has no layer {name!r} (it has {self._trt_network.num_layers} layers).")

    def add_input(self, tensor: "Tensor", dtype: Any, shape: tuple[int, ...]) -> Any:
        """Add the network input that `tensor` stands for; returns its `ITensor`."""
        name = tensor.name
        if name in self._inputs:
            raise GraphError(f"the network has an input {name!r} already; give this one another name.")
        mark = self.log_mark()
        trt_tensor = self._trt_network.add_input(name=name, dtype=dtype, shape=tensorrt().Dims(list(shape)))
        if trt_tensor is None:
            raise GraphError(
                f"TensorRT refuses the input {name!r} ({readable(dtype)} {shape}): {self.logged_since(mark)}"
            )
        self._inputs[name] = tensor
        return trt_tensor

    def add_output(self, tensor: "Tensor", name: str, dtype: Any) -> None:
        """Mark a tensor as the output `name`; see `Tensor.mark_output`."""
        from trtllm_ext.graph.functional import cast, identity

        if name in self._outputs:
            raise GraphError(f"the network has an output {name!r} already; give this one another name.")
        if dtype is not None and (self.strongly_typed or tensor.name in self._told_types):
            tensor = cast(tensor, dtype)
        if self.is_input(tensor) or self.is_output(tensor):
            tensor = identity(tensor)  # a tensor has one name, and TensorRT marks it once
        self.mark(tensor.trt_tensor, dtype)
        self.rename(tensor.trt_tensor, name)
        self._outputs[name] = tensor

    def mark(self, trt_tensor: Any, dtype: Any = None) -> None:
        """Make an `ITensor` an output under its name; in a weakly typed network of type `dtype`, or of its own."""
        dtype = self.type_of(trt_tensor) if dtype is None else dtype
        self._trt_network.mark_output(trt_tensor)
        if not self.strongly_typed:
            trt_tensor.dtype = dtype

    # --- tensors: types and names ------------------------------------------------------------------------------

    def type_of(self, trt_tensor: Any) -> Any:
        """The type of an `ITensor` of this network, a `trt.DataType`."""
        told = self._told_types.get(str(trt_tensor.name)) if self._told_types else None
        return trt_tensor.dtype if told is None else told

    def rename(self, trt_tensor: Any, name: str) -> None:
        """Give an `ITensor` of this network another name."""
        told = self._told_types.pop(str(trt_tensor.name), None)
        trt_tensor.name = name
        if told is not None:
            self._told_types[name] = told

    # --- layers: names, types, errors --------------------------------------------------------------------------

    def log_mark(self) -> int:
        """A position in what TensorRT logs, for `logged_since`."""
        return int(self._logger.mark()) if self._logger is not None else 0

    def logged_since(self, mark: int) -> str:
        """The errors that TensorRT logged after `mark`, or a sentence that there were none to see."""
        text = str(self._logger.errors_since(mark)) if self._logger is not None else ""
        return text or "TensorRT logged no reason"

    def place(self) -> str:
        """Where in the model we are: module path and calls, without the layer."""
        parts = [self.modules.current] if self.modules.current else []
        return "/".join(parts + naming.calls(self._guarded_by))

    def name_layer(self, layer: Any) -> None:
        """Give a new layer and its outputs their names; a layer that has one keeps it."""
        if layer.name in self._layer_names:
            return
        place = self.place()
        label = f"{place}/{naming.layer_label(layer)}" if place else naming.layer_label(layer)
        number = self._label_counts.get(label, 0)
        self._label_counts[label] = number + 1
        layer.name = f"{label}_{number}"
        self._layer_names.add(layer.name)
        if hasattr(layer, "metadata"):
            layer.metadata = layer.name
        for i in range(layer.num_outputs):
            layer.get_output(i).name = f"{layer.name}_output_{i}"

    def record_plugin(self, layer: Any, record: "PluginRecord") -> None:
        """Remember what a plugin layer is and computes, under its name, which it gets now if it has none of ours."""
        self.name_layer(layer)
        self.plugins[layer.name] = record

    def set_layer_types(self, layer: Any, dtype: Any, *others: Any) -> None:
        """In a weakly typed network, pin precision and output types of a layer, which is named, to what the graph says.

        TensorRT would choose among the types that the builder flags allow; with `OBEY_PRECISION_CONSTRAINTS` it keeps
        to these. Strongly typed networks need nothing. others: of the outputs after the first.
        """
        if dtype is None or self.strongly_typed:
            return
        kind = naming.layer_kind(layer)
        if is_float(dtype) and kind not in _NO_PRECISION and kind != "CAST":
            layer.precision = self._dtype if self._dtype is not None else dtype
        if kind not in _NO_OUTPUT_TYPE:
            layer.set_output_type(0, dtype)
        for index, other in enumerate(others, 1):
            layer.set_output_type(index, other)
        if kind.startswith("PLUGIN"):
            for index, told in enumerate((dtype, *others)):
                self._told_types[str(layer.get_output(index).name)] = told


class net_guard:  # noqa: N801 - TensorRT-LLM's name
    """`with net_guard(network):` makes `network` the one that functional calls add to.

    Guards nest. The network before is current again after the block, also when the block raises (TensorRT-LLM's
    guard does not see to that).
    """

    def __init__(self, network: Network) -> None:
        if not isinstance(network, Network):
            raise GraphError(
                f"net_guard takes a Network (from Builder.create_network()), not a {type(network).__name__}."
            )
        self._network = network
        self._token: Token[Network | None] | None = None
        self._outer: CodeType | None = None

    def __enter__(self) -> Network:
        self._outer = self._network._guarded_by
        self._network._guarded_by = sys._getframe(1).f_code
        self._token = _CURRENT.set(self._network)
        return self._network

    def __exit__(self, *raised: object) -> None:
        if self._token is not None:
            _CURRENT.reset(self._token)
        self._network._guarded_by = self._outer


def current_net() -> Network | None:
    """The network being defined, or None outside of any net_guard."""
    return _CURRENT.get()


def default_net() -> Network:
    """The network being defined. Raises GraphError outside of `net_guard`."""
    network = _CURRENT.get()
    if network is None:
        raise GraphError("no network is being defined here; wrap the code in `with net_guard(network):`.")
    return network


def default_trtnet() -> Any:
    """The `INetworkDefinition` being defined. Raises GraphError outside of `net_guard`."""
    return default_net().trt_network


class precision:  # noqa: N801 - TensorRT-LLM's name
    """`with precision("float32"):` computes the layers of a weakly typed network in that type.

    Their outputs keep the type of their inputs. A strongly typed network takes no notice: cast there.
    The precision before holds again after the block, also when it raises.
    """

    def __init__(self, dtype: Any) -> None:
        self._dtype = to_trt_dtype(dtype)
        self._restore: Callable[[], None] | None = None

    def __enter__(self) -> None:
        network = default_net()
        before = network.dtype
        network.dtype = self._dtype

        def restore() -> None:
            network.dtype = before

        self._restore = restore

    def __exit__(self, *raised: object) -> None:
        if self._restore is not None:
            self._restore()
