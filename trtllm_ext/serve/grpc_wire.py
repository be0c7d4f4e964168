"""gRPC messages of inference, read and written: tensors as raw contents, or in the fields of their type."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from mlserver.grpc import dataplane_pb2 as pb

from trtllm_ext.errors import InputError
from trtllm_ext.serve.http_wire import Call
from trtllm_ext.serve.joining import Arrays
from trtllm_ext.serve.runner import TensorSpec
from trtllm_ext.serve.tensors import (
    check_count,
    check_given,
    check_outputs,
    from_bytes,
    from_list,
    take_named,
    to_bytes,
)

_FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "FP32": "fp32_contents",
    "BYTES": "bytes_contents",
}


def read_request(request: Any, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]) -> Call:
    """Read a ModelInferRequest. Raises InputError."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InputError(
            f"raw_input_contents has {len(raw)} entries for {len(request.inputs)} inputs; give one for each, or none."
        )
    given = [(each.name, (each, raw[index] if raw else None)) for index, each in enumerate(request.inputs)]
    arrays = {name: _array(inputs[name], *found) for name, found in take_named(given, inputs).items()}
    names = check_outputs([each.name for each in request.outputs], outputs)
    for each in (*request.inputs, *request.outputs):
        _check_parameters(each)
    # Types without a field of their own make all outputs raw: the protocol has them all raw, or none.
    is_raw = bool(raw) or any(outputs[name].datatype not in _FIELDS for name in names)
    return Call(request.id or None, arrays, names, set(names) if is_raw else set())


def write_response(
    model_name: str, model_version: str, call: Call, outputs: Arrays, specs: Mapping[str, TensorSpec]
) -> Any:
    """A ModelInferResponse."""
    response = pb.ModelInferResponse(model_name=model_name, model_version=model_version, id=call.id or "")
    for name in call.outputs:
        array, datatype = outputs[name], specs[name].datatype
        tensor = response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        if call.binary:
            response.raw_output_contents.append(to_bytes(array))
        else:
            getattr(tensor.contents, _FIELDS[datatype]).extend(array.ravel().tolist())
    return response


def _array(spec: TensorSpec, tensor: Any, raw: bytes | None) -> "np.ndarray[Any, Any]":
    shape = check_given(spec, tensor.datatype, list(tensor.shape))
    if raw is not None:
        if tensor.HasField("contents"):
            raise InputError(
                f"input {spec.name!r} has both contents and raw_input_contents; give one of them."
            )
        return from_bytes(spec, shape, raw)
    field = _FIELDS.get(spec.datatype)
    if field is None:
        raise InputError(f"input {spec.name!r} is {spec.datatype}, which goes as raw_input_contents only.")
    values = getattr(tensor.contents, field)
    check_count(spec, shape, len(values))
    if spec.datatype == "BYTES":
        return from_bytes(spec, shape, b"".join(len(text).to_bytes(4, "little") + text for text in values))
    return from_list(spec, shape, list(values))


def _check_parameters(tensor: Any) -> None:
    if "shared_memory_region" in tensor.parameters:
        raise InputError("this server takes no shared memory; send the tensor's data.")
