"""Host arrays as TensorRT takes them: contiguous, of a type it knows, without a copy where there is a way."""

from typing import Any

import ml_dtypes
import numpy as np

from trtllm_ext.errors import GraphError

Array = np.ndarray[Any, Any]

_VOID_STAND_INS = {2: np.dtype(ml_dtypes.bfloat16), 1: np.dtype(ml_dtypes.float8_e4m3fn)}
# torch's types that numpy lacks: a type of torch of the same width, and ml_dtypes' type.
_TORCH_STAND_INS = {
    "bfloat16": ("int16", np.dtype(ml_dtypes.bfloat16)),
    "float8_e4m3fn": ("uint8", np.dtype(ml_dtypes.float8_e4m3fn)),
}


def as_array(value: Any) -> Array:
    """`value` as a C-contiguous, aligned numpy array.

    value: a numpy array (a read-only memory map is fine), a numpy or Python scalar, or a torch tensor on the CPU.
    Returns a view of the caller's memory where that is possible: not for a strided array, and not for a torch tensor
    on another device. TensorRT-LLM's void stand-ins for bfloat16 and fp8 become those of `ml_dtypes`.
    Raises GraphError for anything else.
    """
    if hasattr(value, "detach") and hasattr(value, "numpy"):
        value = _from_torch(value)
    if isinstance(value, bool | int | float):
        # numpy would take 64 bits; TensorRT-LLM's scalars have 32.
        value = np.array(value, dtype={bool: np.bool_, int: np.int32, float: np.float32}[type(value)])
    if not isinstance(value, np.ndarray | np.generic):
        raise GraphError(
            f"a {type(value).__name__} cannot be a constant or a weight; give a numpy array or a torch tensor."
        )
    array = np.asarray(value)
    if array.dtype.kind == "V" and array.dtype.names is None and array.dtype.itemsize in _VOID_STAND_INS:
        array = array.view(_VOID_STAND_INS[array.dtype.itemsize])
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if not (array.flags.c_contiguous and array.flags.aligned):
        array = np.array(array, order="C")
    return array


def _from_torch(tensor: Any) -> Array:
    tensor = tensor.detach()
    if tensor.device.type != "cpu":
        tensor = tensor.cpu()
    stand_in = _TORCH_STAND_INS.get(str(tensor.dtype).rsplit(".", 1)[-1])
    if stand_in is None:
        return _numpy(tensor)
    import torch

    carrier, numpy_type = stand_in
    return _numpy(tensor.contiguous().view(getattr(torch, carrier))).view(numpy_type)


def _numpy(tensor: Any) -> Array:
    array: Array = tensor.numpy()
    return array
