"""add_ methods of layers that pick elements, put them elsewhere, or go along a dimension in order."""

from __future__ import annotations

from trtllm_ext.embedded.adders.base import AdderBase, MaybeTensor
from trtllm_ext.embedded.enums import CumulativeOperation, DataType, LayerType, ScatterMode, TopKOperation
from trtllm_ext.embedded.layers import (
    ICumulativeLayer,
    INonZeroLayer,
    IOneHotLayer,
    IReverseSequenceLayer,
    IScatterLayer,
    ISqueezeLayer,
    ITopKLayer,
    IUnsqueezeLayer,
)
from trtllm_ext.embedded.layers.base import as_int, as_mask, member_of


class SelectionAdders(AdderBase):
    """Top-k, non-zero, scatter, one-hot, running sums, reversed sequences, squeezes."""

    def add_topk(
        self,
        input: MaybeTensor,
        op: TopKOperation,
        k: int,
        axes: int,
        indices_type: DataType = DataType.INT32,
    ) -> ITopKLayer | None:
        """The `k` largest or smallest elements, in order, along the dimension in the bit mask `axes`; then where.

        Of equal elements the one with the lowest index comes first. Set input 1, a scalar, for a k of the run.
        """
        attributes = {
            "op": member_of(TopKOperation)(op),
            "k": as_int(k),
            "axes": as_mask(axes),
            "indices_type": member_of(DataType)(indices_type),
        }
        return self._add(ITopKLayer, LayerType.TOPK, attributes, (input,), num_outputs=2)

    def add_non_zero(
        self, input: MaybeTensor, indices_type: DataType = DataType.INT32
    ) -> INonZeroLayer | None:
        """The positions of all elements other than zero, in row-major order: shape (rank, -1)."""
        attributes = {"indices_type": member_of(DataType)(indices_type)}
        return self._add(INonZeroLayer, LayerType.NON_ZERO, attributes, (input,))

    def add_scatter(
        self, data: MaybeTensor, indices: MaybeTensor, updates: MaybeTensor, mode: ScatterMode
    ) -> IScatterLayer | None:
        """`data` with `updates` at the positions `indices`; set `axis` for mode ELEMENT, 0 until then."""
        attributes = {"axis": 0, "mode": member_of(ScatterMode)(mode)}
        return self._add(IScatterLayer, LayerType.SCATTER, attributes, (data, indices, updates))

    def add_one_hot(
        self, indices: MaybeTensor, values: MaybeTensor, depth: MaybeTensor, axis: int
    ) -> IOneHotLayer | None:
        """`values[1]` at the positions `indices` along a new dimension of length `depth`, else `values[0]`."""
        return self._add(IOneHotLayer, LayerType.ONE_HOT, {"axis": as_int(axis)}, (indices, values, depth))

    def add_cumulative(
        self,
        input: MaybeTensor,
        axis: MaybeTensor,
        op: CumulativeOperation,
        exclusive: bool,
        reverse: bool,
    ) -> ICumulativeLayer | None:
        """Running sums along `axis`, a constant scalar."""
        attributes = {
            "op": member_of(CumulativeOperation)(op),
            "exclusive": bool(exclusive),
            "reverse": bool(reverse),
        }
        return self._add(ICumulativeLayer, LayerType.CUMULATIVE, attributes, (input, axis))

    def add_reverse_sequence(
        self, input: MaybeTensor, sequence_lens: MaybeTensor
    ) -> IReverseSequenceLayer | None:
        """The first `sequence_lens[i]` elements of sequence i in reverse; dimension 0 is the time, 1 the batch."""
        attributes = {"batch_axis": 1, "sequence_axis": 0}
        return self._add(
            IReverseSequenceLayer, LayerType.REVERSE_SEQUENCE, attributes, (input, sequence_lens)
        )

    def add_squeeze(self, input: MaybeTensor, axes: MaybeTensor) -> ISqueezeLayer | None:
        """The input without the dimensions `axes`, a constant 1-D tensor; their lengths must be 1."""
        return self._add(ISqueezeLayer, LayerType.SQUEEZE, {}, (input, axes))

    def add_unsqueeze(self, input: MaybeTensor, axes: MaybeTensor) -> IUnsqueezeLayer | None:
        """The input with dimensions of length 1 put in, so that they are the `axes` of the result."""
        return self._add(IUnsqueezeLayer, LayerType.UNSQUEEZE, {}, (input, axes))
