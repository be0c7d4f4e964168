"""Why a run failed, as a sentence: what ONNX Runtime logs below the embedded engine is written for its developers."""

import re

_STEP = re.compile(
    r"Non-zero status code returned while running (\w+) node\. Name:'([^']*)' Status Message: (.*)"
)
_INDEX = re.compile(r"idx=(-?\d+) must be within the inclusive range \[-\d+,(\d+)\]")


def explain_failure(logged: str) -> str:
    """What failed in which layer; `logged` as it is when it is not of the known form."""
    step = _STEP.search(logged)
    if step is None:
        return logged
    operator, name, reason = step.groups()
    layer = name.removesuffix(f"/{operator}")
    if index := _INDEX.search(reason):
        given, last = map(int, index.groups())
        return (
            f"layer {layer!r} was given the index {given}, but what it looks up has {last + 1} entries, 0 to {last}. "
            f"Where these are token ids, they must come from the model's own tokenizer"
        )
    return f"layer {layer!r} ({operator}) failed: {reason}"
