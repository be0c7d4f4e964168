"""Views of the layers that scale elements."""

from __future__ import annotations

from trtllm_ext.embedded.enums import ScaleMode
from trtllm_ext.embedded.layers.base import Attribute, ILayer, as_int, enum_attribute
from trtllm_ext.embedded.layers.spatial import weights_attribute


class IScaleLayer(ILayer):
    """`(input * scale + shift) ** power` with weights for the tensor, each channel, or each element."""

    __slots__ = ()
    mode = enum_attribute(ScaleMode, "What has weights of its own.")
    shift = weights_attribute("Added after scaling; empty is 0.")
    scale = weights_attribute("Factors; empty is 1.")
    power = weights_attribute("Exponents; empty is 1.")
    channel_axis = Attribute[int](as_int, "The dimension of the channels.")


class IParametricReLULayer(ILayer):
    """The input where it is not negative, else the input times a slope; input 1 has the slopes."""

    __slots__ = ()
