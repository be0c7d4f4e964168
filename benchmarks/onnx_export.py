"""Our network as a bare ONNX file with its weights beside it: the baseline that shares our graph."""

from collections.abc import Mapping
from pathlib import Path

import onnx

import trtllm_ext as tx
from trtllm_ext import backend
from trtllm_ext.lowering import lower


def save_lowered(checkpoint: Path, path: Path, limits: Mapping[str, int]) -> None:
    """Lowers the network of `checkpoint` under the given build limits to `path` and a file `<name>.weights`."""
    model = tx.model_from_checkpoint(checkpoint)
    network = tx.Builder().create_network()
    with tx.net_guard(network):
        model(**model.prepare_inputs(**limits))
    (segment,) = lower(network.trt_network, backend.tensorrt()).steps
    tensors = {tensor.name: tensor for tensor in segment.model.graph.initializer}
    weights_path = path.with_suffix(".weights")
    with weights_path.open("wb") as file:
        for weight in segment.weights:
            # Page-aligned, as ONNX Runtime wants external data that it is to map.
            file.seek(-file.tell() % 4096, 1)
            facts = {"location": weights_path.name, "offset": file.tell(), "length": weight.data.nbytes}
            file.write(weight.data)
            del tensors[weight.name].external_data[:]
            tensors[weight.name].external_data.extend(
                onnx.StringStringEntryProto(key=key, value=str(value)) for key, value in facts.items()
            )
    path.write_bytes(segment.model.SerializeToString())
