"""Einstein sums."""

from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.registry import lowers
from trtllm_ext.lowering.values import Value


@lowers("EINSUM")
def einsum(layer: Layer) -> Value:
    """Sums of products, in float32 for floats and exactly, wrapping round, for integers."""
    operands = layer.operands()
    return layer.emitter.node(
        "Einsum", operands, operands[0].onnx_type, layer.output_shape, equation=str(layer.api.equation)
    )
