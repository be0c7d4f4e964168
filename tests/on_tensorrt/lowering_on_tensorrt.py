"""Every network of the zoo defined with NVIDIA's TensorRT, lowered, run by ONNX Runtime, and held against the oracle.

    PYTHONPATH=.:tests python tests/on_tensorrt/lowering_on_tensorrt.py FILE [PATTERN]

Nothing is built, so a few minutes of one core are enough; NVIDIA's library needs a device to make networks at all. One
JSON line a network goes to FILE: its name, what came of it, and a sentence. PATTERN is a regular expression; networks
whose names it does not match at their beginning are left out.
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import zoo
from lowered_models import inline, run_session
from zoo.comparing import difference
from zoo.engine import recording_logger

from trtllm_ext.lowering import LoweringError, OnnxSegment, lower
from trtllm_ext.oracle import OracleError, evaluate

SEVERITY = ("same", "oracle refuses", "lowering refuses", "differs")


def try_case(case: zoo.Case, trt: Any, builder: Any, logger: Any) -> tuple[str, str]:
    """What came of it ("same", "differs", "... refuses", "refused at definition", "lacks a name"), and a sentence."""
    logger.messages.clear()
    try:
        network = defined(case, trt, builder)
    except (AttributeError, KeyError) as error:
        return "lacks a name", str(error)
    except (zoo.DefinitionError, TypeError, ValueError, RuntimeError) as error:
        return "refused at definition", " | ".join(logger.messages) or str(error)
    if any(_rank(network.get_output(index)) == -1 for index in range(network.num_outputs)):
        return "refused at definition", " | ".join(logger.messages)
    return max(
        (_compared(case, trt, network, feed) for feed in case.feeds()),
        key=lambda verdict: SEVERITY.index(verdict[0]),
    )


def defined(case: zoo.Case, trt: Any, builder: Any) -> Any:
    """The case's network, of the kind that the library has."""
    flags, wanted = trt.NetworkDefinitionCreationFlag, 0
    if hasattr(flags, "STRONGLY_TYPED") and case.strongly_typed:
        wanted |= 1 << int(flags.STRONGLY_TYPED)
    if int(trt.__version__.split(".", maxsplit=1)[0]) < 10:
        wanted |= 1 << int(flags.EXPLICIT_BATCH)
    network = builder.create_network(wanted)
    case.define(network, trt)
    return network


def _rank(tensor: Any) -> int:
    try:
        return len(tensor.shape)
    except ValueError:
        return -1


def _compared(case: zoo.Case, trt: Any, network: Any, feed: zoo.Feed) -> tuple[str, str]:
    try:
        want = evaluate(network, trt, feed)
    except OracleError as error:
        return "oracle refuses", str(error)
    try:
        steps = lower(network, trt).steps
    except LoweringError as error:
        return "lowering refuses", str(error)
    if not all(isinstance(step, OnnxSegment) for step in steps):
        return "lowering refuses", "it is not all ONNX"
    values: dict[str, np.ndarray] = dict(feed)
    for step in steps:
        session = onnxruntime.InferenceSession(
            inline(step).SerializeToString(), providers=["CPUExecutionProvider"]
        )
        values |= run_session(session, {name: values[name] for name in step.inputs})
    complaints = [difference(case, name, values[name], value) for name, value in want.items()]
    found = next((complaint for complaint in complaints if complaint), None)
    return ("same", "") if found is None else ("differs", found)


def main(path: Path, pattern: str) -> None:
    import tensorrt as trt

    logger = recording_logger(trt)
    builder = trt.Builder(logger)
    counts: Counter[str] = Counter()
    with path.open("w", encoding="utf-8") as out:
        for case in zoo.CASES:
            if not re.match(pattern, case.name):
                continue
            try:
                came, why = try_case(case, trt, builder, logger)
            except Exception as error:  # a table of everything that happens
                came, why = "raised", f"{type(error).__name__}: {error}"
            counts[came] += 1
            out.write(json.dumps({"name": case.name, "came": came, "why": why[:600]}) + "\n")
            out.flush()
    sys.stdout.write(f"{sum(counts.values())} networks on TensorRT {trt.__version__}: {dict(counts)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
