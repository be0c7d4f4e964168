"""add_ methods of layers that compute."""

from __future__ import annotations

from trtllm_ext.embedded.adders.base import AdderBase, MaybeTensor
from trtllm_ext.embedded.enums import (
    ActivationType,
    DataType,
    ElementWiseOperation,
    LayerType,
    MatrixOperation,
    ReduceOperation,
    UnaryOperation,
)
from trtllm_ext.embedded.layers import (
    IActivationLayer,
    IElementWiseLayer,
    IMatrixMultiplyLayer,
    INormalizationLayer,
    IReduceLayer,
    ISoftMaxLayer,
    IUnaryLayer,
)
from trtllm_ext.embedded.layers.base import as_mask, member_of


class ArithmeticAdders(AdderBase):
    """Products, elementwise layers, reductions, norms."""

    def add_matrix_multiply(
        self, input0: MaybeTensor, op0: MatrixOperation, input1: MaybeTensor, op1: MatrixOperation
    ) -> IMatrixMultiplyLayer | None:
        """`op0(input0) @ op1(input1)`."""
        check = member_of(MatrixOperation)
        attributes = {"op0": check(op0), "op1": check(op1)}
        return self._add(IMatrixMultiplyLayer, LayerType.MATRIX_MULTIPLY, attributes, (input0, input1))

    def add_elementwise(
        self, input1: MaybeTensor, input2: MaybeTensor, op: ElementWiseOperation
    ) -> IElementWiseLayer | None:
        """`input1 op input2`, broadcast; both have the same rank."""
        attributes = {"op": member_of(ElementWiseOperation)(op)}
        return self._add(IElementWiseLayer, LayerType.ELEMENTWISE, attributes, (input1, input2))

    def add_unary(self, input: MaybeTensor, op: UnaryOperation) -> IUnaryLayer | None:
        """`op(input)` for each element."""
        return self._add(IUnaryLayer, LayerType.UNARY, {"op": member_of(UnaryOperation)(op)}, (input,))

    def add_activation(self, input: MaybeTensor, type: ActivationType) -> IActivationLayer | None:
        """`type(input)` for each element; parameters `alpha` and `beta` are 0 until set."""
        attributes = {"type": member_of(ActivationType)(type), "alpha": 0.0, "beta": 0.0}
        return self._add(IActivationLayer, LayerType.ACTIVATION, attributes, (input,))

    def add_reduce(
        self, input: MaybeTensor, op: ReduceOperation, axes: int, keep_dims: bool
    ) -> IReduceLayer | None:
        """A reduction over the dimensions in the bit mask `axes`."""
        attributes = {
            "op": member_of(ReduceOperation)(op),
            "axes": as_mask(axes),
            "keep_dims": bool(keep_dims),
        }
        return self._add(IReduceLayer, LayerType.REDUCE, attributes, (input,))

    def add_softmax(self, input: MaybeTensor) -> ISoftMaxLayer | None:
        """Softmax over one dimension; set `axes` to choose it."""
        return self._add(ISoftMaxLayer, LayerType.SOFTMAX, {"axes": None}, (input,))

    def add_normalization(
        self, input: MaybeTensor, scale: MaybeTensor, bias: MaybeTensor, axesMask: int
    ) -> INormalizationLayer | None:
        """`(input - mean) / sqrt(variance + 1e-5) * scale + bias` over the dimensions in the bit mask."""
        attributes = {
            "epsilon": 1e-5,
            "axes": as_mask(axesMask),
            "num_groups": 1,
            "compute_precision": DataType.FLOAT,
        }
        return self._add(INormalizationLayer, LayerType.NORMALIZATION, attributes, (input, scale, bias))
