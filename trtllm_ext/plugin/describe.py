"""The records of the operations as rows of tables, for people."""

from __future__ import annotations

from collections.abc import Iterator

from trtllm_ext.plugin.operation import NO_LIMIT, Field, Operand, Operation

FIELD_HEADS = ("field", "type", "values", "default", "what it is")
OPERAND_HEADS = ("", "shape", "type", "there", "what it is")


def field_rows(operation: Operation) -> Iterator[tuple[str, ...]]:
    """A row a field, in their order, of FIELD_HEADS."""
    for field in operation.fields:
        default = "must be given" if field.default is None else f"{field.default:g}"
        yield (f"`{field.name}`", field.type, _values(field), default, field.doc)


def operand_rows(operation: Operation) -> Iterator[tuple[str, ...]]:
    """A row an input, then a row an output, in their order, of OPERAND_HEADS."""
    for role, operands in (("in", operation.inputs), ("out", operation.outputs)):
        for operand in operands:
            kind = operand.type if operand.type == "float32" else f"`{operand.type}`"
            shape = f"({', '.join(operand.shape)}{',' if len(operand.shape) == 1 else ''})"
            yield (f"{role} `{operand.name}`", shape, kind, _presence(operand), operand.doc)


def _values(field: Field) -> str:
    if field.choices is not None:
        return ", ".join(f"{int(each)} {each.name.lower()}" for each in field.choices)
    if (field.least, field.most) == (0, 1) and field.type == "int32":
        return "0, 1"
    if field.least <= -NO_LIMIT:
        return "any"
    return f"from {field.least:g}" if field.most >= NO_LIMIT else f"{field.least:g} to {field.most:.10g}"


def _presence(operand: Operand) -> str:
    parts = [f"with `{operand.when}`"] if operand.when else []
    parts += [f"without `{operand.unless}`"] if operand.unless else []
    return ", ".join(parts) or "always"
