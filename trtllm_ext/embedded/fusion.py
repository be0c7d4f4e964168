"""How far ONNX Runtime may rewrite the graph of an engine; a plan carries it, and loading keeps to it.

Which kernels `all` fuses depends on what else is an output: a tensor that somebody wants to see stays, and what it was
part of is computed in another order. `basic` has only rewritings that leave every number as it is: ONNX Runtime's basic
level without the fusions that it has even there, and no bias inside a product.
"""

from typing import Literal, get_args

FusionLevel = Literal["basic", "all"]
FUSION_LEVELS: tuple[FusionLevel, ...] = get_args(FusionLevel)

# Fusions of ONNX Runtime's basic level that compute something in another order where no output is in their way.
FUSIONS_OF_BASIC_LEVEL = (
    "ConvAddFusion",
    "ConvBNFusion",
    "ConvMulFusion",
    "DivMulFusion",
    "GeluFusionL1",
    "GemmSumFusion",
    "LayerNormFusionL1",
    "MatMulAddFusion",
    "MatMul_BatchNormalization_Fusion",
)

# Fusions that `all` does without. ONNX Runtime's kernel for a sum with its norm took 5 % longer than the two apart in
# a sentence encoder at 16, 128 and 1024 tokens, and gave other last bits (benchmarks/results/fusion_level.md).
FUSIONS_NOT_WORTH_IT = ("SkipLayerNormFusion", "BiasSkipLayerNormFusion")

# `builder_optimization_level` of an IBuilderConfig, up to which an engine keeps to basic.
BASIC_OPTIMIZATION_LEVEL = 1


def fusion_level_of(builder_optimization_level: int) -> FusionLevel:
    """The level for TensorRT's number: basic for 0 and 1, all from 2 on (TensorRT's default is 3)."""
    return "basic" if builder_optimization_level <= BASIC_OPTIMIZATION_LEVEL else "all"
