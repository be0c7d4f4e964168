"""Views of the layers that compute numbers."""

from __future__ import annotations

from typing import Any

from trtllm_ext.embedded.enums import (
    ActivationType,
    DataType,
    ElementWiseOperation,
    MatrixOperation,
    ReduceOperation,
    Severity,
    UnaryOperation,
)
from trtllm_ext.embedded.layers.base import (
    Attribute,
    ILayer,
    as_float,
    as_int,
    as_mask,
    enum_attribute,
    member_of,
)
from trtllm_ext.embedded.rules.reduction import softmax_axes


class IMatrixMultiplyLayer(ILayer):
    """Product of matrices or vectors."""

    __slots__ = ()
    op0 = enum_attribute(MatrixOperation, "How input 0 is read.")
    op1 = enum_attribute(MatrixOperation, "How input 1 is read.")


class IElementWiseLayer(ILayer):
    """Binary operation with broadcasting."""

    __slots__ = ()
    op = enum_attribute(ElementWiseOperation, "The operation.")


class IUnaryLayer(ILayer):
    """Function of each element."""

    __slots__ = ()
    op = enum_attribute(UnaryOperation, "The function.")


class IActivationLayer(ILayer):
    """Activation function of each element."""

    __slots__ = ()

    # Hides `ILayer.type`, as in TensorRT; `network.get_layer()` gives a view that has that.
    type = enum_attribute(ActivationType, "The function.")
    alpha = Attribute[float](as_float, "First parameter of the functions that have one.")
    beta = Attribute[float](as_float, "Second parameter of the functions that have one.")


class IReduceLayer(ILayer):
    """Reduction over dimensions."""

    __slots__ = ()
    op = enum_attribute(ReduceOperation, "The reduction.")
    axes = Attribute[int](as_mask, "Bit mask of the dimensions.")
    keep_dims = Attribute[bool](bool, "Whether reduced dimensions stay, with length 1.")


class ISoftMaxLayer(ILayer):
    """Softmax over one dimension."""

    __slots__ = ()

    @property
    def axes(self) -> int:
        """Bit mask with the one dimension; until set, the third from last, or 0."""
        axes: int | None = self._node.attributes["axes"]
        data = self.get_input(0)
        known = None if data is None else data._known()
        return softmax_axes(axes, 0 if known is None else len(known.shape))

    @axes.setter
    def axes(self, axes: int) -> None:
        self._node.set_attribute("axes", as_mask(axes))


class INormalizationLayer(ILayer):
    """Layer, instance or group normalisation."""

    __slots__ = ()
    epsilon = Attribute[float](as_float, "Added to the variance.")
    axes = Attribute[int](as_mask, "Bit mask of the dimensions that mean and variance go over.")
    num_groups = Attribute[int](as_int, "Groups that the channels, dimension 1, are split into.")

    @property
    def compute_precision(self) -> DataType:
        """FLOAT, or HALF: the type to compute in, whatever the type of the input."""
        dtype: DataType = self._node.attributes["compute_precision"]
        return dtype

    @compute_precision.setter
    def compute_precision(self, dtype: Any) -> None:
        if member_of(DataType)(dtype) in (DataType.FLOAT, DataType.HALF):
            self._node.set_attribute("compute_precision", dtype)
        else:
            self._node.graph.log(
                Severity.ERROR, f"{self.name}: compute_precision must be FLOAT or HALF, not {dtype.name}"
            )


class ICastLayer(ILayer):
    """Conversion to another type."""

    __slots__ = ()
    to_type = enum_attribute(DataType, "The type of the output.")


class IIdentityLayer(ILayer):
    """The same tensor; in a weakly typed network, in the type set for the output."""

    __slots__ = ()


class ISelectLayer(ILayer):
    """Choice between two tensors, element by element."""

    __slots__ = ()
