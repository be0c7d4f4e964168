"""Every network of the zoo defined with NVIDIA's TensorRT, lowered, run by ONNX Runtime, and held against the oracle.

    PYTHONPATH=.:tests python tests/on_tensorrt/lowering_on_tensorrt.py FILE [PATTERN]

Nothing is built, so a few minutes of one core are enough; NVIDIA's library needs a device to make networks at all. One
JSON line a network goes to FILE: its name, what came of it, and a sentence. PATTERN is a regular expression; networks
whose names it does not match at their beginning are left out.
"""

import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import zoo
from lowered_models import inline, run_session
from zoo.comparing import difference
from zoo.engine import recording_logger
from zoo_cases import RefusedError, chosen, defined, line_of, write_line

from trtllm_ext.lowering import LoweringError, OnnxSegment, lower
from trtllm_ext.oracle import OracleError, evaluate

SEVERITY = ("same", "oracle refuses", "lowering refuses", "differs")


def try_case(case: zoo.Case, trt: Any, builder: Any, logger: Any) -> tuple[str, str]:
    """What came of it ("same", "differs", "... refuses"), and a sentence. Raises zoo_cases.RefusedError."""
    network = defined(case, trt, builder, logger)
    if any(_rank(network.get_output(index)) == -1 for index in range(network.num_outputs)):
        raise RefusedError("refused at definition", " | ".join(logger.messages))
    return max(
        (_compared(case, trt, network, feed) for feed in case.feeds()),
        key=lambda verdict: SEVERITY.index(verdict[0]),
    )


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
        for number in chosen(pattern):
            case = zoo.CASES[number]
            line = line_of(case, partial(try_case, case, trt, builder, logger))
            counts[line["came"]] += 1
            write_line(out, line)
    sys.stdout.write(f"{sum(counts.values())} networks on TensorRT {trt.__version__}: {dict(counts)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
