"""What a plan keeps of its plugins: enough to make each again from its creator, none of its code."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trtllm_ext.embedded.enums import PluginFieldType
from trtllm_ext.embedded.plan.strict_json import Fields
from trtllm_ext.embedded.rules.plugin import Signature
from trtllm_ext.embedded.tensor_types import element_type_named
from trtllm_ext.errors import EngineError

# More than any context could allocate.
_MAX_WORKSPACE = 2**48


@dataclass(frozen=True, kw_only=True)
class FieldRecord:
    """A field: name, PluginFieldType, and the bytes of its elements."""

    name: str
    type: str
    data: bytes


@dataclass(frozen=True, kw_only=True)
class PluginRecord:
    """One plugin: who makes it, from which fields, for which layer, and what the build decided for it."""

    name: str
    version: str
    namespace: str
    layer: str
    fields: tuple[FieldRecord, ...]
    tactic: int = 0
    workspace_bytes: int = 0

    def to_json(self) -> Mapping[str, Any]:
        """The record in JSON's types."""
        return {
            "name": self.name,
            "version": self.version,
            "namespace": self.namespace,
            "layer": self.layer,
            "fields": [
                {"name": one.name, "type": one.type, "data": base64.b64encode(one.data).decode()}
                for one in self.fields
            ],
            "tactic": self.tactic,
            "workspace": self.workspace_bytes,
        }


def read_plugin(fields: Fields) -> PluginRecord:
    """The inverse of `PluginRecord.to_json()`. Raises EngineError for anything that it did not write."""
    return PluginRecord(
        name=fields.text("name"),
        version=fields.text("version"),
        namespace=fields.text("namespace"),
        layer=fields.text("layer"),
        fields=fields.records("fields", _read_field),
        tactic=fields.integer("tactic", high=2**31 - 1),
        workspace_bytes=fields.integer("workspace", high=_MAX_WORKSPACE),
    )


def _read_field(fields: Fields) -> FieldRecord:
    kind, text = fields.text("type"), fields.text("data")
    if kind not in PluginFieldType.__members__:
        fields.refuse("type", kind, "a PluginFieldType")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        fields.refuse("data", text, "base64")
    return FieldRecord(name=fields.text("name"), type=kind, data=data)


@dataclass(frozen=True)
class PluginStep:
    """Call plugin number `plugin`: takes the named values, of the given element types, makes the named values.

    `aliases` has pairs (output, input): the output starts as a copy of the input and is changed in place.
    """

    plugin: int
    inputs: tuple[str, ...]
    input_types: tuple[str, ...]
    outputs: tuple[str, ...]
    signature: Signature
    aliases: tuple[tuple[int, int], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The node of this step."""
        return {
            "kind": "plugin",
            "plugin": self.plugin,
            "inputs": list(self.inputs),
            "input_types": list(self.input_types),
            "outputs": list(self.outputs),
            "signature": self.signature.to_json(),
            "aliases": [list(pair) for pair in self.aliases],
        }


def read_plugin_step(fields: Fields) -> PluginStep:
    """The inverse of `PluginStep.to_json()`. Raises EngineError for anything that it did not write."""
    try:
        signature = Signature.from_json(fields.take("signature"))
    except ValueError as error:
        raise EngineError(
            f"the engine's header has a wrong plugin signature at {fields.where}: {error}"
        ) from None
    inputs, outputs = fields.texts("inputs"), fields.texts("outputs")
    if len(inputs) != signature.num_inputs + signature.num_shape_inputs:
        fields.refuse("inputs", list(inputs), "what the signature says")
    if len(outputs) != len(signature.dtypes):
        fields.refuse("outputs", list(outputs), "what the signature says")
    types = fields.texts("input_types")
    if len(types) != len(inputs):
        fields.refuse("input_types", list(types), "a type for each input")
    for name in types:
        element_type_named(name)
    return PluginStep(
        fields.integer("plugin"), inputs, types, outputs, signature, _read_aliases(fields, signature)
    )


def _read_aliases(fields: Fields, signature: Signature) -> tuple[tuple[int, int], ...]:
    pairs = []
    for pair in fields.sequence("aliases"):
        is_pair = isinstance(pair, list) and len(pair) == 2 and all(type(one) is int for one in pair)
        if not is_pair or not (0 <= pair[0] < len(signature.dtypes) and 0 <= pair[1] < signature.num_inputs):
            fields.refuse("aliases", pair, "pairs of an output and an input")
        pairs.append((pair[0], pair[1]))
    return tuple(pairs)
