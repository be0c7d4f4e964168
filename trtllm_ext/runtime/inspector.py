"""What an engine's inspector tells."""

import json
from typing import Any

from trtllm_ext import backend


def layers_of(engine: Any) -> list[dict[str, Any]]:
    """A `trt.ICudaEngine`'s layers: at least a name each, more with detailed verbosity."""
    kind = backend.tensorrt().LayerInformationFormat.JSON
    text = engine.create_engine_inspector().get_engine_information(kind)
    try:
        found = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError):
        return []  # an engine built with profiling_verbosity none says nothing
    return [_layer(each) for each in found]


def _layer(told: Any) -> dict[str, Any]:
    # TensorRT gives a bare name with layer_names_only, an object with detailed verbosity.
    if not isinstance(told, dict):
        return {"name": str(told)}
    renamed = {"Name": "name", "LayerType": "type"}
    return {renamed.get(str(key), str(key)): value for key, value in told.items()}
