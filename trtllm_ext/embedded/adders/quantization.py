"""add_ methods of layers between floats and quantized types."""

from __future__ import annotations

from trtllm_ext.embedded.adders.base import AdderBase, MaybeTensor
from trtllm_ext.embedded.enums import DataType, LayerType
from trtllm_ext.embedded.layers.base import member_of
from trtllm_ext.embedded.layers.quantization import IDequantizeLayer, IQuantizeLayer


class QuantizationAdders(AdderBase):
    """Quantize and dequantize."""

    def add_quantize(
        self, input: MaybeTensor, scale: MaybeTensor, output_type: DataType = DataType.INT8
    ) -> IQuantizeLayer | None:
        """`clamp(round(input / scale))` in INT8, FP8 or INT4; set `axis` for a scale by channel."""
        attributes = {"axis": -1, "to_type": member_of(DataType)(output_type)}
        return self._add(IQuantizeLayer, LayerType.QUANTIZE, attributes, (input, scale))

    def add_dequantize(
        self, input: MaybeTensor, scale: MaybeTensor, output_type: DataType = DataType.FLOAT
    ) -> IDequantizeLayer | None:
        """`input * scale` in FLOAT, HALF or BF16; set `axis` for a scale by channel."""
        attributes = {"axis": -1, "to_type": member_of(DataType)(output_type)}
        return self._add(IDequantizeLayer, LayerType.DEQUANTIZE, attributes, (input, scale))
