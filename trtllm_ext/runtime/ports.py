"""Reads the inputs and outputs of an `ICudaEngine`."""

from typing import Any

from trtllm_ext import backend
from trtllm_ext.runtime.envelope import Envelope
from trtllm_ext.runtime.tensors import Port, Shape


def ports_of(engine: Any, envelope: Envelope | None = None) -> list[Port]:
    """Every input and output of `engine`, in its order; names of dimensions come from the envelope."""
    input_mode = backend.tensorrt().TensorIOMode.INPUT
    dim_names = {tensor.name: tensor.dim_names for tensor in envelope.inputs} if envelope else {}
    ports = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        is_input = engine.get_tensor_mode(name) == input_mode
        ports.append(
            Port(
                name=name,
                dtype=engine.get_tensor_dtype(name),
                shape=tuple(engine.get_tensor_shape(name)),
                is_input=is_input,
                is_shape=is_input and bool(engine.is_shape_inference_io(name)),
                ranges=tuple((least, most) for least, _, most in profile_shapes(engine, name))
                if is_input
                else (),
                dim_names=dim_names.get(name, ()),
            )
        )
    return ports


def profile_shapes(engine: Any, name: str) -> list[tuple[Shape, Shape, Shape]]:
    """(min, opt, max) shape of the input `name` in each optimization profile."""
    triples = []
    for index in range(engine.num_optimization_profiles):
        least, opt, most = (tuple(dims) for dims in engine.get_tensor_profile_shape(name, index))
        triples.append((least, opt, most))
    return triples
