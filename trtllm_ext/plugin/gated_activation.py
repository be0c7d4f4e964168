"""gated_activation: an activation, or a gated one, elementwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trtllm_ext.plugin import formulas
from trtllm_ext.plugin.c_interface import Activation, Type
from trtllm_ext.plugin.operation import NO_LIMIT, Operand, Operation, choice, number, switch

if TYPE_CHECKING:
    from trtllm_ext.graph import Tensor

CLAMP = number("clamp", "limit c of act(min(fc, c)) * clip(gate, -c, c); 0 for none")
GATE_OFFSET = number("gate_offset", "added to the gate, such as GPT-OSS's 1", least=-NO_LIMIT)


def _expansion(fields: Mapping[str, Any], *, fc: Tensor, gate: Tensor | None) -> tuple[Tensor, ...]:
    activation = Activation(fields["activation"]).name.lower()
    clamp = fields["clamp"] or None
    return (formulas.gated_activation(fc, gate, activation, clamp, fields["gate_offset"]),)


GATED_ACTIVATION = Operation(
    name="gated_activation",
    plugin="GatedActivation",
    doc="output = act(fc), or act(fc) * (gate + gate_offset); with a clamp c > 0 act(min(fc, c)) and clip(gate, -c, c)",
    fields=(
        choice("type", Type, "type of inputs and output"),
        choice("activation", Activation, "which activation"),
        switch("gated", "whether there is a gate"),
        CLAMP,
        GATE_OFFSET,
    ),
    inputs=(
        Operand(name="fc", shape=("...", "width"), doc="what is activated"),
        Operand(
            name="gate",
            shape=("...", "width"),
            doc="what the activated values are multiplied by",
            when="gated",
        ),
    ),
    outputs=(Operand(name="output", shape=("...", "width"), doc="act(fc), or the gated form"),),
    types=("float32", "float16", "bfloat16"),
    expansion=_expansion,
)
