"""Lowered segments as models by themselves."""

import onnx


def inline(segment):
    """The segment's model with its weights inside."""
    model = onnx.ModelProto()
    model.CopyFrom(segment.model)
    weights = {weight.name: weight.data for weight in segment.weights}
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor.ClearField("external_data")
            tensor.data_location = onnx.TensorProto.DEFAULT
            tensor.raw_data = weights[tensor.name].tobytes()
    return model
