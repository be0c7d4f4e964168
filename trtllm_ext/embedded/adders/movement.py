"""add_ methods of layers that make, move or convert data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trtllm_ext.embedded.adders.base import AdderBase, MaybeTensor
from trtllm_ext.embedded.enums import DataType, FillOperation, GatherMode, LayerType, SampleMode
from trtllm_ext.embedded.layers import (
    ICastLayer,
    IConcatenationLayer,
    IConstantLayer,
    IFillLayer,
    IGatherLayer,
    IIdentityLayer,
    ISelectLayer,
    IShapeLayer,
    IShuffleLayer,
    ISliceLayer,
)
from trtllm_ext.embedded.layers.base import as_dims, as_int, member_of
from trtllm_ext.embedded.layers.movement import as_weights, constant_attributes
from trtllm_ext.embedded.tensor import ITensor
from trtllm_ext.embedded.types import Dims


class MovementAdders(AdderBase):
    """Constants, shapes, slices, gathers, casts."""

    def add_constant(self, shape: Dims | Sequence[int], weights: Any) -> IConstantLayer | None:
        """Weights, or a numpy array, as a tensor of `shape`; the memory is borrowed until the engine is built."""
        dims = as_dims(shape)
        return self._add(
            IConstantLayer, LayerType.CONSTANT, constant_attributes(as_weights(weights), dims), ()
        )

    def add_concatenation(self, inputs: Sequence[ITensor]) -> IConcatenationLayer | None:
        """The inputs one after another; set `axis` to choose the dimension."""
        if isinstance(inputs, ITensor):
            raise TypeError("add_concatenation takes a list of tensors, not one tensor; put it in a list")
        tensors = tuple(inputs)
        if not tensors:
            return self._refuse("add_concatenation needs at least one input")
        return self._add(IConcatenationLayer, LayerType.CONCATENATION, {"axis": None}, tensors)

    def add_shape(self, input: MaybeTensor) -> IShapeLayer | None:
        """The shape of the input as a 1-D INT64 tensor."""
        return self._add(IShapeLayer, LayerType.SHAPE, {}, (input,))

    def add_shuffle(self, input: MaybeTensor) -> IShuffleLayer | None:
        """Transpose, reshape, transpose; nothing until their attributes are set."""
        attributes = {
            "first_transpose": None,
            "reshape_dims": None,
            "second_transpose": None,
            "zero_is_placeholder": True,
        }
        return self._add(IShuffleLayer, LayerType.SHUFFLE, attributes, (input,))

    def add_slice(
        self,
        input: MaybeTensor,
        start: Dims | Sequence[int],
        shape: Dims | Sequence[int],
        stride: Dims | Sequence[int],
    ) -> ISliceLayer | None:
        """Part of a tensor; out of bounds is an error until `mode` is set."""
        attributes = {
            "start": as_dims(start),
            "shape": as_dims(shape),
            "stride": as_dims(stride),
            "mode": SampleMode.STRICT_BOUNDS,
            "axes": None,
        }
        return self._add(ISliceLayer, LayerType.SLICE, attributes, (input,))

    def add_gather(self, input: MaybeTensor, indices: MaybeTensor, axis: int) -> IGatherLayer | None:
        """Elements of `input` along `axis`, at positions `indices`; mode DEFAULT."""
        return self._add_gather(input, indices, GatherMode.DEFAULT, as_int(axis))

    def add_gather_v2(
        self, input: MaybeTensor, indices: MaybeTensor, mode: GatherMode
    ) -> IGatherLayer | None:
        """Elements of `input` at positions `indices`; set `axis` and `num_elementwise_dims`, 0 until then."""
        return self._add_gather(input, indices, member_of(GatherMode)(mode), 0)

    def add_fill(
        self, shape: Dims | Sequence[int], op: FillOperation, output_type: DataType = DataType.FLOAT
    ) -> IFillLayer | None:
        """A tensor of `shape` made by `op`; inputs 0, 1 and 2 may be set to replace shape, `alpha` and `beta`."""
        attributes = {
            "shape": as_dims(shape),
            "operation": member_of(FillOperation)(op),
            "to_type": member_of(DataType)(output_type),
            "alpha": 0.0,
            "beta": 1.0,
        }
        return self._add(IFillLayer, LayerType.FILL, attributes, ())

    def _add_gather(
        self, data: MaybeTensor, indices: MaybeTensor, mode: GatherMode, axis: int
    ) -> IGatherLayer | None:
        attributes = {"axis": axis, "num_elementwise_dims": 0, "mode": mode}
        return self._add(IGatherLayer, LayerType.GATHER, attributes, (data, indices))

    def add_cast(self, input: MaybeTensor, to_type: DataType) -> ICastLayer | None:
        """The input converted to `to_type`."""
        return self._add(ICastLayer, LayerType.CAST, {"to_type": member_of(DataType)(to_type)}, (input,))

    def add_identity(self, input: MaybeTensor) -> IIdentityLayer | None:
        """The input itself."""
        return self._add(IIdentityLayer, LayerType.IDENTITY, {}, (input,))

    def add_select(
        self, condition: MaybeTensor, then_input: MaybeTensor, else_input: MaybeTensor
    ) -> ISelectLayer | None:
        """`then_input` where `condition` holds, else `else_input`, broadcast; all have the same rank."""
        return self._add(ISelectLayer, LayerType.SELECT, {}, (condition, then_input, else_input))
