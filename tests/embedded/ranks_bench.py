"""Networks with collectives, built once and run by ranks that are threads."""

import os

import numpy as np
from sample_plugins import Bench, run

import trtllm_ext.embedded as trt
from trtllm_ext.parallel import run_ranks

ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER = (
    trt.CollectiveOperation.ALL_REDUCE,
    trt.CollectiveOperation.ALL_GATHER,
    trt.CollectiveOperation.REDUCE_SCATTER,
)
SUM, NONE = trt.ReduceOperation.SUM, trt.ReduceOperation.NONE

# Sessions of one thread: ONNX Runtime's own threads wait for work awake.
os.environ.setdefault("TRTLLM_EXT_NUM_THREADS", "1")


class RanksBench(Bench):
    """A bench whose networks have collectives."""

    def collective(self, tensor, size, operation=ALL_REDUCE, reduce_op=SUM):
        """A collective over the first `size` ranks."""
        layer = self.network.add_dist_collective(tensor, operation, reduce_op, -1, list(range(size)))
        assert layer is not None, self.log.said
        return layer.get_output(0)

    def constant(self, array):
        weights = trt.Weights(array)
        return self.network.add_constant(array.shape, weights).get_output(0)

    def add(self, one, other):
        return self.network.add_elementwise(one, other, trt.ElementWiseOperation.SUM).get_output(0)

    def run(self, plan, feeds, runs=1, load_mode="prepack"):
        """What every rank gives for its feeds {name: array}; the last of several runs."""
        runtime = trt.Runtime(self.log)
        runtime.load_mode = load_mode
        engine = runtime.deserialize_cuda_engine(plan)
        assert engine is not None, self.log.said

        def rank(communicator):
            context = engine.create_execution_context()
            assert context.set_communicator(communicator), self.log.said
            return [run(context, feeds[communicator.rank]) for _ in range(runs)][-1]

        return run_ranks(len(feeds), rank)


def numbers(rng, shape, dtype):
    """Random elements of a numpy type, of both signs, and of several magnitudes where they are floats."""
    if np.dtype(dtype).kind in "iu":
        return rng.integers(-9, 9, shape).astype(dtype)
    if np.dtype(dtype).kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    return (rng.standard_normal(shape) * 2.0 ** rng.integers(-4, 5, shape)).astype(dtype)
