"""What the builder and the layers do by a call of its own on TensorRT-LLM's graph API, and by another on ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trtllm_ext import backend
from trtllm_ext.errors import BuildError
from trtllm_ext.graph.changes import changed
from trtllm_ext.graph.module import Note

# On a Module of TensorRT-LLM, whose own noted outputs have no meaning and no ranks.
_NOTES = "_trtllm_ext_notes"


def is_tensorrt_llm() -> bool:
    """Whether `trtllm_ext.graph` is TensorRT-LLM's."""
    return backend.choice().graph == "tensorrt_llm"


def type_of(network: Any, trt_tensor: Any) -> Any:
    """The type of an `ITensor` of a network, a `trt.DataType`."""
    return trt_tensor.dtype if is_tensorrt_llm() else network.type_of(trt_tensor)


def mark(network: Any, trt_tensor: Any) -> None:
    """Make an `ITensor` an output of a network, as it is."""
    if is_tensorrt_llm():
        network.trt_network.mark_output(trt_tensor)
    else:
        network.mark(trt_tensor)


def note(module: Any, name: str, value: Any, meaning: str, token_group: list[int] | None) -> Any:
    """`Module.register_network_output` with a meaning and the ranks that tokens are dealt out to.

    Returns what goes on in the network in place of `value`: itself, unless a build changes it here (`graph.changes`).
    What is noted is what goes on.
    """
    result = changed(module, name, value, meaning, token_group)
    if result is not value:
        meaning += "; as this run's surgery inputs have changed it"
    _register(module, name, result, meaning, token_group)
    return result


def _register(module: Any, name: str, value: Any, meaning: str, token_group: list[int] | None) -> None:
    if not is_tensorrt_llm():
        module.register_network_output(name, value, meaning, token_group)
        return
    module.register_network_output(name, value)
    noted = module.__dict__.setdefault(_NOTES, {})
    for key in [key for key, each in noted.items() if each.value.network is not value.network]:
        del noted[key]
    key, count = name, 0
    while key in noted:
        count += 1
        key = f"{name}_{count}"
    noted[key] = Note(value, name, meaning, token_group)


def named_notes(model: Any) -> Iterator[tuple[str, Note]]:
    """(dotted name, note) of what was noted in a model and below, whichever Module it is made of."""
    if hasattr(model, "named_network_notes"):
        yield from model.named_network_notes()
        return
    told = set()
    for prefix, module in model.named_modules() if hasattr(model, "named_modules") else ():
        for name, noted in module.__dict__.get(_NOTES, {}).items():
            told.add(path := f"{prefix}.{name}" if prefix else name)
            yield path, noted
    if hasattr(model, "named_network_outputs"):
        for name, value in model.named_network_outputs():
            if name not in told:
                yield name, Note(value, name.rpartition(".")[2], None)


def set_value(parameter: Any, array: Any) -> None:
    """Give a parameter its value; the array is kept, not copied, where it is contiguous."""
    if is_tensorrt_llm():
        from trtllm_ext.graph.tensorrt_llm_functional import numpy_form

        array = numpy_form(array)
    parameter.value = array


def check_filled(network: Any) -> None:
    """Raise BuildError for parameters without values, which TensorRT-LLM's network holds to be filled at random."""
    unfilled = getattr(network, "_unfilled_weights", None) or {}
    missing = [name for name, (_, value) in unfilled.items() if value is None]
    if missing:
        raise BuildError(
            f"{len(missing)} parameters have no value, the first being that of {missing[0]}. Load the model's weights, "
            f"or set parameter.value."
        )
    if unfilled:
        network._fill_weights()
