"""Fields of an operation as the bindings of TensorRT 8.6, 10 and 11 take and give them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from trtllm_ext.plugin.operation import Operation

_ELEMENT = {"int32": (np.int32, "INT32"), "float32": (np.float32, "FLOAT32")}


def packed(operation: Operation, fields: Mapping[str, Any], trt: Any) -> tuple[Any, list[Any]]:
    """A `trt.PluginFieldCollection` of all fields in their order, and the arrays that it points into.

    fields: complete. Keep the arrays until the plugin is made: TensorRT 8.6 does not.
    """
    made, arrays = [], []
    for field in operation.fields:
        element, kind = _ELEMENT[field.type]
        arrays.append(np.array([fields[field.name]], element))
        made.append(trt.PluginField(field.name, arrays[-1], getattr(trt.PluginFieldType, kind)))
    return trt.PluginFieldCollection(made), arrays


def unpacked(operation: Operation, collection: Iterable[Any]) -> dict[str, int | float]:
    """All fields of a collection whose data can be read, with defaults for those that are not there.

    Raises GraphError as `Operation.complete` does.
    """
    return operation.complete(
        {field.name: np.asarray(field.data).reshape(-1)[0].item() for field in collection}
    )
