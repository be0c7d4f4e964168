"""No architecture is in the table of converters that was not compared with transformers' own layers, in both types."""

import importlib
from pathlib import Path

from trtllm_ext.checkpoint.convert.architectures import STACK_ARCHITECTURES, specs_by_class

BUDGET_S = 4


def compared():
    """(model_type, stack) of every case that is run in float32 and in bfloat16."""
    found = {"float32": set(), "bfloat16": set()}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        for test in vars(importlib.import_module(path.stem)).values():
            marks = {mark.args[0]: mark.args[1] for mark in getattr(test, "pytestmark", ()) if mark.args}
            for each in marks.get(("case", "dtype"), ()):
                case, dtype = each.values
                found[dtype].add(_spec_of(case))
    return found["float32"] & found["bfloat16"]


def _spec_of(case):
    classes = (case.whole_config or {}).get("architectures", [case.model.__name__])
    stacks = {spec.stack: spec for spec in specs_by_class()[classes[0]]}
    spec = stacks[case.options.get("stack", next(iter(stacks)))]
    return spec.model_type, spec.stack


def test_every_architecture_is_compared():
    assert {(spec.model_type, spec.stack) for spec in STACK_ARCHITECTURES} == compared()
