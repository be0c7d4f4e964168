"""What is known of a plugin layer beyond what TensorRT tells of it: its fields, and what it computes.

A plugin layer does not give its fields back, nor its meaning. Whoever adds one records both under the layer's name
(`Network.record_plugin`), for the engine's description, the oracle, and the ONNX export.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trtllm_ext.errors import GraphError


@dataclass(frozen=True, kw_only=True)
class PluginRecord:
    """One plugin layer.

    name, version, namespace: of the plugin, as its creator is registered. fields: what it was made from: numbers,
        texts, or sequences of numbers.
    expansion: the same written down through `functional`: from a Tensor for each input of the layer, in their order,
        to one Tensor for each output. It needs no plugin, so it is what is exported.
    function: the same on NumPy arrays, float64 for floating tensors; by default the expansion, evaluated.
    Either may be missing: a layer without a meaning is fed from the engine where it is compared, and not exported.
    """

    name: str
    version: str = "1"
    namespace: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    expansion: Callable[..., Any] | None = None
    function: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise GraphError("a PluginRecord needs the plugin's name, as its creator is registered.")
        object.__setattr__(self, "fields", {str(key): _plain(value) for key, value in self.fields.items()})

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: everything but the meaning, which is code."""
        return {
            "name": self.name,
            "version": self.version,
            "namespace": self.namespace,
            "fields": dict(self.fields),
        }


def fields_of(collection: Any) -> dict[str, Any]:
    """The fields of a `trt.PluginFieldCollection` by name; None where the library does not tell their data."""
    return {str(each.name): _data_of(each) for each in collection}


def _data_of(plugin_field: Any) -> Any:
    data = getattr(plugin_field, "data", None)
    if not isinstance(data, np.ndarray | bytes | str | int | float | list | tuple):
        return None  # TensorRT 8 gives the address, in a capsule
    return np.asarray(data).tobytes() if str(plugin_field.type).endswith("CHAR") else data


def _plain(value: Any) -> Any:
    """A field's value as JSON has it; one number of an array of one."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return value.rstrip(b"\0").decode("utf-8", "replace")
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        wide = array.reshape(-1) if array.dtype.kind in "biu" else array.reshape(-1).astype(np.float64)
        return wide.tolist()[0] if wide.size == 1 else wide.tolist()
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    raise GraphError(
        f"a plugin's field cannot be recorded as {value!r}; give numbers, a text, or a sequence of numbers."
    )
