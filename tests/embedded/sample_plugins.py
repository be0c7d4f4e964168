"""Plugins written in Python as an application would, for tests; and what builds and runs networks with them."""

import ctypes
import math

import numpy as np
from tiny_plans import Log, config_with

import trtllm_ext.embedded as trt
from trtllm_ext.embedded.types import storage_dtype

FLOATS = (trt.float32, trt.float16, trt.bfloat16)
SUM, PROD, FLOOR_DIV = (trt.DimensionOperation.__members__[name] for name in ("SUM", "PROD", "FLOOR_DIV"))


def array_at(address, desc, shape=None):
    """The memory of a tensor as a numpy array; `shape` instead of that of the description."""
    shape = tuple(desc.dims) if shape is None else shape
    dtype = storage_dtype(desc.type)
    buffer = (ctypes.c_uint8 * (math.prod(shape) * dtype.itemsize)).from_address(address)
    return np.frombuffer(buffer, dtype).reshape(shape)


class NumpyPlugin(trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime):
    """What the plugins here share. A subclass says `compute(inputs, outputs)` on arrays."""

    outputs = 1

    def __init__(self, fc=None, phase=None):
        trt.IPluginV3.__init__(self)
        trt.IPluginV3OneCore.__init__(self)
        trt.IPluginV3OneBuild.__init__(self)
        trt.IPluginV3OneRuntime.__init__(self)
        self.plugin_name = type(self).__name__
        self.plugin_version = "1"
        self.plugin_namespace = ""
        self.num_outputs = self.outputs
        self.phase = phase
        self.told = []
        self.fields = {field.name: field.data for field in fc or ()}

    def get_capability_interface(self, type):
        return self

    def clone(self):
        clone = type(self)()
        clone.__dict__.update(self.__dict__)
        clone.told = []
        return clone

    def attach_to_context(self, context):
        return self.clone()

    def get_output_data_types(self, input_types):
        return [input_types[0]] * self.num_outputs

    def get_output_shapes(self, inputs, shape_inputs, exprBuilder):
        return [trt.DimsExprs(inputs[0]) for _ in range(self.num_outputs)]

    def supports_format_combination(self, pos, in_out, num_inputs):
        desc = in_out[pos].desc
        return desc.format == trt.TensorFormat.LINEAR and desc.type in FLOATS

    def configure_plugin(self, inp, out):
        self.told.append(("configure", inp, out))

    def set_tactic(self, tactic):
        self.tactic = tactic

    def on_shape_change(self, inp, out):
        self.told.append(("shapes", [tuple(desc.dims) for desc in inp], [tuple(desc.dims) for desc in out]))

    def get_fields_to_serialize(self):
        return trt.PluginFieldCollection(
            [trt.PluginField(name, data, trt.PluginFieldType.INT32) for name, data in self.fields.items()]
        )

    def enqueue(self, input_desc, output_desc, inputs, outputs, workspace, stream):
        self.compute(
            [array_at(*one) for one in zip(inputs, input_desc, strict=True)],
            [array_at(*one) for one in zip(outputs, output_desc, strict=True)],
        )


class CircularPad(NumpyPlugin):
    """Pads the last dimensions with what is at their other end; the field `pads` has (before, after) of each."""

    @staticmethod
    def fields_of(*pads):
        data = np.array(pads, np.int32)
        return trt.PluginFieldCollection([trt.PluginField("pads", data, trt.PluginFieldType.INT32)])

    def get_output_shapes(self, inputs, shape_inputs, exprBuilder):
        dims, pads = trt.DimsExprs(inputs[0]), self.fields["pads"]
        for index in range(len(pads) // 2):
            axis = len(dims) - 1 - index
            extra = exprBuilder.constant(pads[2 * index] + pads[2 * index + 1])
            dims[axis] = exprBuilder.operation(SUM, dims[axis], extra)
        return [dims]

    def compute(self, inputs, outputs):
        outputs[0][...] = circular_pad(inputs[0], self.fields["pads"])


def circular_pad(x, pads):
    pairs = [(0, 0)] * x.ndim
    for index in range(len(pads) // 2):
        pairs[x.ndim - 1 - index] = (int(pads[2 * index]), int(pads[2 * index + 1]))
    return np.pad(x, pairs, "wrap")


class GeluBias(NumpyPlugin):
    """gelu(x + bias) by its tanh form, computed in float32; x (n, d), bias (1, d)."""

    def compute(self, inputs, outputs):
        outputs[0][...] = gelu_bias(*inputs).astype(outputs[0].dtype)


def gelu_bias(x, bias):
    v = x.astype(np.float32) + bias.astype(np.float32)
    return 0.5 * v * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3)))


class Extremes(NumpyPlugin):
    """The least and largest element of each row, and where the largest is: three outputs of two types."""

    outputs = 3

    def get_output_data_types(self, input_types):
        return [input_types[0], input_types[0], trt.int32]

    def get_output_shapes(self, inputs, shape_inputs, exprBuilder):
        return [trt.DimsExprs([inputs[0][0]]) for _ in range(3)]

    def supports_format_combination(self, pos, in_out, num_inputs):
        return in_out[pos].desc.type in ((trt.int32,) if pos == 3 else FLOATS)

    def compute(self, inputs, outputs):
        low, high, place = outputs
        low[...], high[...], place[...] = inputs[0].min(1), inputs[0].max(1), inputs[0].argmax(1)


class NonZero(NumpyPlugin):
    """Coordinates of the elements of a matrix that are not 0, (count, 2), and their count, a size tensor."""

    outputs = 2

    def get_output_data_types(self, input_types):
        return [trt.int32, trt.int32]

    def get_output_shapes(self, inputs, shape_inputs, exprBuilder):
        most = exprBuilder.operation(PROD, inputs[0][0], inputs[0][1])
        half = exprBuilder.operation(FLOOR_DIV, most, exprBuilder.constant(2))
        count = exprBuilder.declare_size_tensor(1, half, most)
        return [trt.DimsExprs([count, exprBuilder.constant(2)]), trt.DimsExprs(0)]

    def supports_format_combination(self, pos, in_out, num_inputs):
        return in_out[pos].desc.type in (FLOATS if pos == 0 else (trt.int32,))

    def enqueue(self, input_desc, output_desc, inputs, outputs, workspace, stream):
        found = np.argwhere(array_at(inputs[0], input_desc[0]))
        array_at(outputs[0], output_desc[0], found.shape)[...] = found
        array_at(outputs[1], output_desc[1])[...] = len(found)


class Repeat(NumpyPlugin):
    """Repeats rows and columns as often as the two elements of the shape input say."""

    def get_output_shapes(self, inputs, shape_inputs, exprBuilder):
        return [
            trt.DimsExprs(
                [exprBuilder.operation(PROD, *pair) for pair in zip(inputs[0], shape_inputs[0], strict=True)]
            )
        ]

    def compute(self, inputs, outputs):
        rows, columns = (
            after // before for after, before in zip(outputs[0].shape, inputs[0].shape, strict=True)
        )
        outputs[0][...] = np.tile(inputs[0], (rows, columns))


class Creator(trt.IPluginCreatorV3One):
    """Makes plugins of one class."""

    def __init__(self, plugin_class, version="1", namespace=""):
        trt.IPluginCreatorV3One.__init__(self)
        self.plugin_class = plugin_class
        self.name = plugin_class.__name__
        self.plugin_version = version
        self.plugin_namespace = namespace
        self.field_names = trt.PluginFieldCollection([])
        self.made = []

    def create_plugin(self, name, fc, phase):
        self.made.append((name, phase))
        return self.plugin_class(fc, phase)


class Bench:
    """A builder, a network under construction and a log."""

    def __init__(self, strongly_typed=True):
        self.log = Log()
        self.builder = trt.Builder(self.log)
        flags = int(strongly_typed) << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self.network = self.builder.create_network(flags)

    def input(self, name, shape, dtype=trt.float32):
        return self.network.add_input(name, dtype, shape)

    def plugin(self, plugin, *inputs, shape_inputs=()):
        """The outputs of a plugin layer, or None."""
        layer = self.network.add_plugin_v3(list(inputs), list(shape_inputs), plugin)
        return layer and [layer.get_output(index) for index in range(layer.num_outputs)]

    def relu(self, tensor):
        return self.network.add_activation(tensor, trt.ActivationType.RELU).get_output(0)

    def output(self, tensor, name):
        tensor.name = name
        self.network.mark_output(tensor)

    def build(self, shapes=None, values=None):
        return self.builder.build_serialized_network(self.network, config_with(self.builder, shapes, values))

    def load(self, plan, *creators):
        """The engine, with creators registered at the runtime alone."""
        runtime = trt.Runtime(self.log)
        for creator in creators:
            assert runtime.get_plugin_registry().register_creator(creator, creator.plugin_namespace)
        return runtime.deserialize_cuda_engine(plan)

    def context(self, plan, *classes):
        engine = self.load(plan, *(Creator(one) for one in classes))
        assert engine is not None, self.log.said
        return engine.create_execution_context()


class Room(trt.IOutputAllocator):
    """Memory for an output whose size only the run shows."""

    def __init__(self, dtype, capacity=1 << 16):
        super().__init__()
        self.memory = np.zeros(capacity, np.uint8)
        self.dtype, self.shape = dtype, None

    def reallocate_output(self, tensor_name, memory, size, alignment):
        return self.memory.ctypes.data

    def notify_shape(self, tensor_name, shape):
        self.shape = tuple(shape)

    def array(self):
        return np.frombuffer(self.memory, self.dtype, math.prod(self.shape)).reshape(self.shape)


def run(context, inputs, late=()):
    """All outputs; those named in `late` through an output allocator. Fails if the run does."""
    engine, outputs, rooms = context.engine, {}, {}
    for name, array in inputs.items():
        context.set_input_shape(name, array.shape)
        context.set_tensor_address(name, array.ctypes.data)
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        dtype = storage_dtype(engine.get_tensor_dtype(name))
        if name in late:
            rooms[name] = Room(dtype)
            assert context.set_output_allocator(name, rooms[name])
        elif engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT:
            outputs[name] = np.full(tuple(context.get_tensor_shape(name)), 77, dtype)
            context.set_tensor_address(name, outputs[name].ctypes.data)
    assert context.execute_async_v3(0), context._logger.said
    return outputs | {name: room.array() for name, room in rooms.items()}
