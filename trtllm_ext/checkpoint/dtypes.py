"""Weight types: their names, their numpy types, and conversion that refuses what it cannot hold."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import numpy.typing as npt

from trtllm_ext.errors import CheckpointError, ConfigError
from trtllm_ext.suggest import nearest

bfloat16: np.dtype = np.dtype(ml_dtypes.bfloat16)

# The types a checkpoint's weights may have.
WEIGHT_DTYPES: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": bfloat16,
}

# name -> (signed type of the same width, the bits of the exponent): all ones means NaN or infinity.
_EXPONENT_BITS: dict[str, tuple[type[np.signedinteger], int]] = {
    "float64": (np.int64, 0x7FF0_0000_0000_0000),
    "float32": (np.int32, 0x7F80_0000),
    "float16": (np.int16, 0x7C00),
    "bfloat16": (np.int16, 0x7F80),
}
# A part that is looked at twice: the second time it comes from the processor's cache.
_CACHED_BYTES = 1 << 19


def weight_dtype(name: str) -> np.dtype:
    """The numpy type of a weight type's name; raises ConfigError for any other name."""
    try:
        return WEIGHT_DTYPES[name]
    except (KeyError, TypeError):
        raise ConfigError(f"dtype={name!r} is not a weight type. {nearest(name, WEIGHT_DTYPES)}") from None


def all_finite(values: npt.NDArray) -> bool:
    """Whether a float array holds neither NaN nor infinity; integers always are finite."""
    if values.dtype.name not in _EXPONENT_BITS:
        return True
    # On the bits, since numpy has no fast isfinite for bfloat16. As integers, the floats of a sign are ordered as
    # their magnitudes, infinity and NaN last: two maxima, without a temporary array, tell.
    signed, exponent = _EXPONENT_BITS[values.dtype.name]
    bits = np.ascontiguousarray(values).reshape(-1).view(signed)
    unsigned = bits.view(f"u{bits.itemsize}")
    sign = 1 << (8 * bits.itemsize - 1)
    step = _CACHED_BYTES // bits.itemsize
    return all(
        bits[begin : begin + step].max() < exponent and unsigned[begin : begin + step].max() < sign + exponent
        for begin in range(0, bits.size, step)
    )


def convert_values(values: npt.NDArray, dtype: np.dtype, name: str) -> npt.NDArray:
    """Round float values to `dtype` (nearest, ties to even); the same array when nothing changes.

    Raises CheckpointError when a finite value becomes infinite; `name` is the weight's name for the message.
    """
    if values.dtype == dtype:
        return values
    with np.errstate(over="ignore"):
        result = values.astype(dtype)
    if not all_finite(result):
        wide = values.astype(np.float64)
        lost = np.isfinite(wide) & ~np.isfinite(result.astype(np.float64))
        if lost.any():
            # Largest magnitudes: float16 65504, bfloat16 and float32 about 3.4e38.
            raise CheckpointError(
                f"{name}: {np.abs(wide[lost]).max():g} does not fit into {dtype.name} (largest "
                f"{float(ml_dtypes.finfo(dtype).max):g}); {int(lost.sum())} value(s) would become infinite. "
                "Use a type with a wider range: bfloat16 or float32."
            )
    return result
