"""Matrix products, and products by Einstein's summation convention."""

from collections.abc import Sequence

from trtllm_ext.backend import tensorrt
from trtllm_ext.graph.functional.constants import cast
from trtllm_ext.graph.functional.operands import expand_rank, require_same_dtype, require_tensor
from trtllm_ext.graph.layer import add_layer, fail, output
from trtllm_ext.graph.tensor import Tensor


def matmul(
    input: Tensor, mat2: Tensor, transa: bool = False, transb: bool = False, use_fp32_acc: bool = True
) -> Tensor:
    """The product of the last two dimensions; those in front broadcast, and the shorter shape gets 1s in front.

    transa, transb: exchange the last two dimensions of an operand first.
    use_fp32_acc: two float16 operands are cast to float32, and the product back. Other types are multiplied as they
        are.
    Raises GraphError when the types differ or the inner sizes do not fit.
    """
    require_same_dtype(require_tensor(input, "input"), require_tensor(mat2, "mat2"))
    trt = tensorrt()
    rank = max(input.rank(), mat2.rank(), 2)
    left, right = expand_rank(input, rank), expand_rank(mat2, rank)
    half = use_fp32_acc and input.dtype == trt.DataType.HALF
    if half:
        left, right = cast(left, trt.DataType.FLOAT), cast(right, trt.DataType.FLOAT)
    operations = [
        trt.MatrixOperation.TRANSPOSE if transposed else trt.MatrixOperation.NONE
        for transposed in (transa, transb)
    ]
    layer = add_layer("add_matrix_multiply", left, operations[0], right, operations[1])
    result = output(layer, left.dtype)
    return cast(result, trt.DataType.HALF) if half else result


def einsum(einsum_eq: str, inputs: Sequence[Tensor]) -> Tensor:
    """Products of the inputs' elements summed over dimensions, as in numpy.einsum: "ik,kj->ij".

    einsum_eq: a lower-case letter for each dimension of each input, then those of the result; without "->" the letters
        that stand once, in alphabetical order. TensorRT takes no "..." and no letter twice in one input.
    inputs: of one type.
    """
    if not inputs:
        raise fail(f"einsum {einsum_eq!r} of an empty list; give at least one tensor")
    require_same_dtype(*(require_tensor(each, "an input") for each in inputs))
    return output(add_layer("add_einsum", list(inputs), einsum_eq), inputs[0].dtype)


def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """The product of each element of `input` (n,) with each of `vec2` (m,): (n, m)."""
    return einsum("i,j->ij", [input, vec2])
