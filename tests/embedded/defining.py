"""Small helpers for tests that define networks."""

import numpy as np

import trtllm_ext.embedded as trt


class Recorder(trt.ILogger):
    """Keeps what it is told."""

    def __init__(self):
        super().__init__()
        self.messages = []

    def log(self, severity, msg):
        self.messages.append((severity, msg))

    @property
    def errors(self):
        return [message for severity, message in self.messages if severity == trt.Logger.ERROR]


def new_network(strongly_typed=True):
    flags = int(strongly_typed) << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return trt.INetworkDefinition(Recorder(), flags)


def errors_of(network):
    return network._graph.logger.errors


def add_input(network, shape, dtype=trt.float32, name=None):
    return network.add_input(name or f"input{network.num_inputs}", dtype, shape)


def add_constant(network, values, dtype=np.int64):
    array = np.asarray(values, dtype=dtype)
    return network.add_constant(array.shape, array).get_output(0)


def shape_of(tensor):
    return tuple(tensor.shape)
