"""The add_ methods of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from trtllm_ext.embedded.enums import (
    ActivationType,
    DataType,
    ElementWiseOperation,
    FillOperation,
    GatherMode,
    LayerType,
    MatrixOperation,
    ReduceOperation,
    SampleMode,
    Severity,
    UnaryOperation,
)
from trtllm_ext.embedded.graph import Graph
from trtllm_ext.embedded.layers import (
    IActivationLayer,
    ICastLayer,
    IConcatenationLayer,
    IConstantLayer,
    IElementWiseLayer,
    IFillLayer,
    IGatherLayer,
    IIdentityLayer,
    ILayer,
    IMatrixMultiplyLayer,
    INormalizationLayer,
    IReduceLayer,
    ISelectLayer,
    IShapeLayer,
    IShuffleLayer,
    ISliceLayer,
    ISoftMaxLayer,
    IUnaryLayer,
)
from trtllm_ext.embedded.layers.base import as_dims, as_int, as_mask, member_of
from trtllm_ext.embedded.layers.movement import as_weights, constant_attributes
from trtllm_ext.embedded.node import Node
from trtllm_ext.embedded.tensor import ITensor
from trtllm_ext.embedded.types import Dims

L = TypeVar("L", bound=ILayer)

# Attributes and inputs set later may mend layers of these kinds, so only a fault of the operands refuses them now.
_MENDABLE = frozenset(
    {
        LayerType.CONCATENATION,
        LayerType.FILL,
        LayerType.GATHER,
        LayerType.SHUFFLE,
        LayerType.SLICE,
        LayerType.SOFTMAX,
        LayerType.NORMALIZATION,
    }
)

# None comes from an add_ method that failed before.
_Tensor = ITensor | None


class LayerAdders:
    """The part of INetworkDefinition that adds layers.

    Every method returns the layer, or None if there cannot be such a layer; the reason is then logged. See the
    classes in `layers` for what may be set afterwards, and `rules` for shapes and types.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def add_constant(self, shape: Dims | Sequence[int], weights: Any) -> IConstantLayer | None:
        """Weights, or a numpy array, as a tensor of `shape`; the memory is borrowed until the engine is built."""
        dims = as_dims(shape)
        return self._add(
            IConstantLayer, LayerType.CONSTANT, constant_attributes(as_weights(weights), dims), ()
        )

    def add_matrix_multiply(
        self, input0: _Tensor, op0: MatrixOperation, input1: _Tensor, op1: MatrixOperation
    ) -> IMatrixMultiplyLayer | None:
        """`op0(input0) @ op1(input1)`."""
        check = member_of(MatrixOperation)
        attributes = {"op0": check(op0), "op1": check(op1)}
        return self._add(IMatrixMultiplyLayer, LayerType.MATRIX_MULTIPLY, attributes, (input0, input1))

    def add_elementwise(
        self, input1: _Tensor, input2: _Tensor, op: ElementWiseOperation
    ) -> IElementWiseLayer | None:
        """`input1 op input2`, broadcast; both have the same rank."""
        attributes = {"op": member_of(ElementWiseOperation)(op)}
        return self._add(IElementWiseLayer, LayerType.ELEMENTWISE, attributes, (input1, input2))

    def add_unary(self, input: _Tensor, op: UnaryOperation) -> IUnaryLayer | None:
        """`op(input)` for each element."""
        return self._add(IUnaryLayer, LayerType.UNARY, {"op": member_of(UnaryOperation)(op)}, (input,))

    def add_activation(self, input: _Tensor, type: ActivationType) -> IActivationLayer | None:
        """`type(input)` for each element; parameters `alpha` and `beta` are 0 until set."""
        attributes = {"type": member_of(ActivationType)(type), "alpha": 0.0, "beta": 0.0}
        return self._add(IActivationLayer, LayerType.ACTIVATION, attributes, (input,))

    def add_reduce(
        self, input: _Tensor, op: ReduceOperation, axes: int, keep_dims: bool
    ) -> IReduceLayer | None:
        """A reduction over the dimensions in the bit mask `axes`."""
        attributes = {
            "op": member_of(ReduceOperation)(op),
            "axes": as_mask(axes),
            "keep_dims": bool(keep_dims),
        }
        return self._add(IReduceLayer, LayerType.REDUCE, attributes, (input,))

    def add_softmax(self, input: _Tensor) -> ISoftMaxLayer | None:
        """Softmax over one dimension; set `axes` to choose it."""
        return self._add(ISoftMaxLayer, LayerType.SOFTMAX, {"axes": None}, (input,))

    def add_normalization(
        self, input: _Tensor, scale: _Tensor, bias: _Tensor, axesMask: int
    ) -> INormalizationLayer | None:
        """`(input - mean) / sqrt(variance + 1e-5) * scale + bias` over the dimensions in the bit mask."""
        attributes = {
            "epsilon": 1e-5,
            "axes": as_mask(axesMask),
            "num_groups": 1,
            "compute_precision": DataType.FLOAT,
        }
        return self._add(INormalizationLayer, LayerType.NORMALIZATION, attributes, (input, scale, bias))

    def add_cast(self, input: _Tensor, to_type: DataType) -> ICastLayer | None:
        """The input converted to `to_type`."""
        return self._add(ICastLayer, LayerType.CAST, {"to_type": member_of(DataType)(to_type)}, (input,))

    def add_identity(self, input: _Tensor) -> IIdentityLayer | None:
        """The input itself."""
        return self._add(IIdentityLayer, LayerType.IDENTITY, {}, (input,))

    def add_select(self, condition: _Tensor, then_input: _Tensor, else_input: _Tensor) -> ISelectLayer | None:
        """`then_input` where `condition` holds, else `else_input`, broadcast; all have the same rank."""
        return self._add(ISelectLayer, LayerType.SELECT, {}, (condition, then_input, else_input))

    def add_concatenation(self, inputs: Sequence[ITensor]) -> IConcatenationLayer | None:
        """The inputs one after another; set `axis` to choose the dimension."""
        tensors = tuple(inputs)
        if not tensors:
            return self._refuse("add_concatenation needs at least one input")
        return self._add(IConcatenationLayer, LayerType.CONCATENATION, {"axis": None}, tensors)

    def add_shape(self, input: _Tensor) -> IShapeLayer | None:
        """The shape of the input as a 1-D INT64 tensor."""
        return self._add(IShapeLayer, LayerType.SHAPE, {}, (input,))

    def add_shuffle(self, input: _Tensor) -> IShuffleLayer | None:
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
        input: _Tensor,
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

    def add_gather(self, input: _Tensor, indices: _Tensor, axis: int) -> IGatherLayer | None:
        """Elements of `input` along `axis`, at positions `indices`; mode DEFAULT."""
        return self._add_gather(input, indices, GatherMode.DEFAULT, as_int(axis))

    def add_gather_v2(self, input: _Tensor, indices: _Tensor, mode: GatherMode) -> IGatherLayer | None:
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
        self, data: _Tensor, indices: _Tensor, mode: GatherMode, axis: int
    ) -> IGatherLayer | None:
        attributes = {"axis": axis, "num_elementwise_dims": 0, "mode": mode}
        return self._add(IGatherLayer, LayerType.GATHER, attributes, (data, indices))

    def _add(
        self, view: type[L], kind: LayerType, attributes: dict[str, Any], inputs: Sequence[_Tensor]
    ) -> L | None:
        """Add a layer with one output, unless it is wrong already."""
        graph = self._graph
        node = Node(graph, kind, attributes, len(graph.nodes))
        for number, tensor in enumerate(inputs):
            if tensor is None:
                return self._refuse(f"{node.name}: input {number} is None; did the layer before it fail?")
            if not isinstance(tensor, ITensor):
                raise TypeError(f"input {number} of {kind} must be an ITensor, not {tensor!r}")
            if tensor._graph is not graph:
                return self._refuse(f"{node.name}: input {number}, {tensor.name}, belongs to another network")
        node.outputs = [ITensor._make(graph, f"{node.name}_output", node, 0, None)]
        node.output_types = [None]
        for number, tensor in enumerate(inputs):
            node.connect(number, tensor)
        graph.known(node.outputs[0])
        if node.error is not None and (node.fault_of_operands or kind not in _MENDABLE):
            for number in range(len(inputs)):
                node.connect(number, None)
            return self._refuse(f"{node.name}: {node.error}")
        graph.nodes.append(node)
        layer = view._view(node)
        assert isinstance(layer, view)  # for the type checker
        node.view = layer
        return layer

    def _view_of(self, node: Node) -> ILayer:
        assert node.view is not None  # for the type checker: _add sets it
        return node.view

    def _refuse(self, reason: str) -> Any:
        """Log why there is nothing to return, and return None."""
        self._graph.log(Severity.ERROR, reason)
        return None
