"""Views of the layers between floats and quantized types."""

from __future__ import annotations

from trtllm_ext.embedded.enums import DataType
from trtllm_ext.embedded.layers.base import Attribute, ILayer, as_int, enum_attribute


class IQuantizeLayer(ILayer):
    """Floats over a scale, rounded (ties to even) and clamped to a quantized type.

    Input 1 is the scale: one number, one for each length of `axis`, or one for each block; input 2 may be a zero
    point of zeros.
    """

    __slots__ = ()
    axis = Attribute[int](as_int, "The dimension that a 1-D scale goes along; -1 until set.")
    to_type = enum_attribute(DataType, "The type of the output: INT8, FP8 or INT4.")


class IDequantizeLayer(ILayer):
    """Quantized numbers times a scale, given as for IQuantizeLayer."""

    __slots__ = ()
    axis = Attribute[int](as_int, "The dimension that a 1-D scale goes along; -1 until set.")
    to_type = enum_attribute(DataType, "The type of the output: FLOAT, HALF or BF16.")
