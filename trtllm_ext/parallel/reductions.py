"""How TensorRT's reductions of a collective are done by a `Communicator`."""

from trtllm_ext.parallel.communicator import ReduceOp

# By name of ReduceOperation. An average is a sum that each rank divides.
REDUCE_OPS: dict[str, ReduceOp] = {"SUM": "sum", "AVG": "sum", "PROD": "prod", "MAX": "max", "MIN": "min"}
# Reduced as float32 and rounded once.
NARROW_TYPES = ("float16", "bfloat16")
