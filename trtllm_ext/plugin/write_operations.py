"""Write the field tables of the TensorRT plugins in C++ from the records of the operations.

python -m trtllm_ext.plugin.write_operations [--check]

The file is plugins/tensorrt/generated/operations.h, of the structures in plugins/tensorrt/record.h; --check only says
whether it is as it would be written.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from trtllm_ext.plugin.operation import NAMESPACE, Field, Operation
from trtllm_ext.plugin.operations import OPERATIONS

HEADER = Path(__file__).parents[2] / "plugins" / "tensorrt" / "generated" / "operations.h"

_BEFORE = """\
/* Written by `python -m trtllm_ext.plugin.write_operations` from the records of trtllm_ext/plugin. Do not edit. */
#ifndef TRTLLM_EXT_PLUGINS_GENERATED_OPERATIONS_H
#define TRTLLM_EXT_PLUGINS_GENERATED_OPERATIONS_H

#include "plugins/tensorrt/record.h"
"""
_AFTER = """

} // namespace trtllm_ext::plugins

#endif
"""


def header() -> str:
    """The text of the header."""
    operations = list(OPERATIONS.values())
    parts = [
        _BEFORE,
        f"#define TRTLLM_EXT_PLUGIN_NAMESPACE {_text(NAMESPACE)}\n",
        "/* The plugins as a JSON list, for the text that is read without loading the library. */",
        f"#define TRTLLM_EXT_PLUGINS_JSON \\\n{_json_list(operations)}\n",
        "namespace trtllm_ext::plugins\n{\n",
        *(f"{_fields(each)}\n" for each in operations),
        *(_record(each) for each in operations),
    ]
    return "\n".join(parts) + _AFTER


def _json_list(operations: list[Operation]) -> str:
    """A C string literal, a line a plugin."""
    rows = [
        json.dumps({"name": each.plugin, "version": each.version, "namespace": NAMESPACE})
        for each in operations
    ]
    pieces = [f"{row}, " for row in rows[:-1]] + [f"{rows[-1]}]"]
    pieces[0] = f"[{pieces[0]}"
    return " \\\n".join(f"    {_text(piece)}" for piece in pieces)


def _fields(operation: Operation) -> str:
    rows = "".join(f"    {row},\n" for row in map(_field, operation.fields))
    return f"inline constexpr FieldRecord {operation.name.upper()}_FIELDS[] = {{\n{rows}}};"


def _field(field: Field) -> str:
    required = "true" if field.default is None else "false"
    return (
        f"{{{_text(field.name)}, FieldType::{field.type.upper()}, {required}, {field.default or 0:g}, "
        f"{_text(field.doc)}}}"
    )


def _record(operation: Operation) -> str:
    name = operation.name.upper()
    return (
        f"inline constexpr OperationRecord {name}{{{_text(operation.plugin)}, {_text(operation.version)}, "
        f"{name}_FIELDS, {len(operation.fields)}}};"
    )


def _text(text: str) -> str:
    """A C string literal of ASCII text: JSON's escapes are C's."""
    return json.dumps(text)


def main(arguments: list[str] | None = None) -> int:
    """Write the file, or with --check compare it: 1 when it is out of date."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail when the file is out of date"
    )
    parser.add_argument("--output", type=Path, default=HEADER, help="the file to write")
    given = parser.parse_args(arguments)
    text = header()
    if given.check:
        is_current = given.output.is_file() and given.output.read_text(encoding="utf-8") == text
        return 0 if is_current else 1
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
