"""Element types by the protocol's names: FP32, BF16, BYTES and so on."""

from typing import Any

import numpy as np

from trtllm_ext.errors import EngineError
from trtllm_ext.runtime.dtypes import NUMPY_DTYPES, dtype_name, readable

# TensorRT's DataType name -> the protocol's. The protocol has no 8-bit floats.
_PROTOCOL_NAMES = {
    "FLOAT": "FP32",
    "HALF": "FP16",
    "BF16": "BF16",
    "INT64": "INT64",
    "INT32": "INT32",
    "INT8": "INT8",
    "UINT8": "UINT8",
    "BOOL": "BOOL",
}
NUMPY_OF: dict[str, np.dtype[Any]] = {
    **{name: NUMPY_DTYPES[kind] for kind, name in _PROTOCOL_NAMES.items()},
    "BYTES": np.dtype(np.object_),
}


def protocol_name(dtype: Any, tensor: str) -> str:
    """`trt.DataType.HALF` -> "FP16". Raises EngineError for a type that the protocol does not have."""
    try:
        return _PROTOCOL_NAMES[dtype_name(dtype)]
    except KeyError:
        raise EngineError(
            f"the engine's tensor {tensor!r} is {readable(dtype)}, which the Open Inference Protocol does not have (it "
            f"has {', '.join(NUMPY_OF)}). `trtllm-ext run` runs any engine."
        ) from None
