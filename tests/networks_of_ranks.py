"""Networks of several ranks, written through `trtllm_ext.graph` and run on threads: by the oracle, by engines."""

import numpy as np

import trtllm_ext.embedded as trt
from trtllm_ext.graph.dtypes import np_dtype_to_trt, trt_dtype_to_np
from trtllm_ext.graph.network import Network, net_guard
from trtllm_ext.graph.tensor import Tensor
from trtllm_ext.oracle import evaluate
from trtllm_ext.parallel import run_ranks
from trtllm_ext.runtime.trt_log import recording_logger


class RankNetwork:
    """One rank's network and the arrays that it is given.

    define(*tensors): its output Tensor, or several, named y0, y1, ...; arrays: its inputs x0, x1, ...; varying: whether
    every length is declared as one that varies.
    """

    def __init__(self, define, arrays, varying=False):
        self.feed = {f"x{i}": np.array(array, order="C") for i, array in enumerate(arrays)}
        self.logger = recording_logger(trt)
        self.builder = trt.Builder(self.logger)
        flag = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self.network = Network(self.builder.create_network(flag), self.logger)
        with net_guard(self.network):
            outputs = define(
                *(
                    Tensor(name, np_dtype_to_trt(array.dtype), [-1] * array.ndim if varying else array.shape)
                    for name, array in self.feed.items()
                )
            )
            for i, tensor in enumerate([outputs] if isinstance(outputs, Tensor) else outputs):
                tensor.mark_output(f"y{i}")

    def layer_kinds(self):
        network = self.network.trt_network
        kinds = [trt.ILayer.type.__get__(network.get_layer(i)) for i in range(network.num_layers)]
        return [str(kind).rpartition(".")[2] for kind in kinds]

    def float64(self, communicator=None):
        """The oracle's outputs, whose floats are float64."""
        results = evaluate(self.network.trt_network, trt, self.feed, communicator=communicator)
        return [results[name] for name in sorted(results)]

    def oracle(self, communicator=None):
        """The oracle's outputs, rounded to their types."""
        types = {tensor.name: trt_dtype_to_np(tensor.dtype) for tensor in self.network.get_outputs()}
        with np.errstate(over="ignore"):
            return [each.astype(types[f"y{i}"]) for i, each in enumerate(self.float64(communicator))]

    def engine(self):
        """An engine for exactly the arrays' shapes."""
        config = self.builder.create_builder_config()
        profile = self.builder.create_optimization_profile()
        for name, array in self.feed.items():
            profile.set_shape(name, array.shape, array.shape, array.shape)
        config.add_optimization_profile(profile)
        plan = self.builder.build_serialized_network(self.network.trt_network, config)
        assert plan is not None, self.logger.errors
        return trt.Runtime(self.logger).deserialize_cuda_engine(plan)

    def embedded(self, communicator=None):
        """The embedded engine's outputs."""
        engine = self.engine()
        context = engine.create_execution_context()
        if communicator is not None:
            assert context.set_communicator(communicator), self.logger.errors
        for name, array in self.feed.items():
            assert context.set_input_shape(name, array.shape), self.logger.errors
            context.set_tensor_address(name, array.ctypes.data)
        results = []
        for i in range(engine.num_io_tensors - len(self.feed)):
            name = f"y{i}"
            shape, dtype = (
                tuple(context.get_tensor_shape(name)),
                trt_dtype_to_np(engine.get_tensor_dtype(name)),
            )
            results.append(np.zeros(shape, dtype))
            context.set_tensor_address(name, results[-1].ctypes.data)
        assert context.execute_async_v3(0), self.logger.errors
        return results


def run_networks(networks, how):
    """By rank the outputs of each rank's network. how: 'float64', 'oracle' or 'embedded'."""
    return run_ranks(len(networks), lambda one: getattr(networks[one.rank], how)(one))
