"""Write the field tables of the TensorRT plugins in C++ from the records of the operations.

python -m trtllm_ext.plugin.write_operations [--check] [--operations FILE.py --output FILE.h]

The file is plugins/tensorrt/generated/operations.h, of the structures in plugins/tensorrt/record.h; --check only says
whether it is as it would be written. --operations: for a library of your own, a Python file with its OPERATIONS, all of
one namespace.
"""

from __future__ import annotations

import argparse
import json
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from trtllm_ext.plugin.operation import Field, Operation
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


def header(operations: Sequence[Operation] = tuple(OPERATIONS.values())) -> str:
    """The text of the header, for operations of one namespace."""
    (namespace,) = {each.namespace for each in operations}
    parts = [
        _BEFORE,
        f"#define TRTLLM_EXT_PLUGIN_NAMESPACE {_text(namespace)}\n",
        "/* The plugins as a JSON list, for the text that is read without loading the library. */",
        f"#define TRTLLM_EXT_PLUGINS_JSON \\\n{_json_list(operations)}\n",
        "namespace trtllm_ext::plugins\n{\n",
        *(f"{_fields(each)}\n" for each in operations),
        *(_record(each) for each in operations),
    ]
    return "\n".join(parts) + _AFTER


def _json_list(operations: Sequence[Operation]) -> str:
    """A C string literal, a line a plugin."""
    rows = [
        json.dumps({"name": each.plugin, "version": each.version, "namespace": each.namespace})
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


def _operations_of(path: Path) -> Sequence[Operation]:
    """OPERATIONS of a Python file, which is run for them."""
    operations: dict[str, Operation] = runpy.run_path(str(path))["OPERATIONS"]
    return tuple(operations.values())


def main(arguments: list[str] | None = None) -> int:
    """Write the file, or with --check compare it: 1 when it is out of date."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail when the file is out of date"
    )
    parser.add_argument("--output", type=Path, default=HEADER, help="the file to write")
    parser.add_argument("--operations", type=Path, help="a Python file with OPERATIONS, by their names")
    given = parser.parse_args(arguments)
    text = header() if given.operations is None else header(_operations_of(given.operations))
    if given.check:
        is_current = given.output.is_file() and given.output.read_text(encoding="utf-8") == text
        return 0 if is_current else 1
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
