"""Every network of the zoo on NVIDIA's TensorRT: what it takes, refuses, or computes otherwise than the oracle says.

    PYTHONPATH=.:tests python tests/on_tensorrt/zoo_on_tensorrt.py FILE [SECONDS [PROCESSES [PATTERN]]]

PATTERN is a regular expression; networks whose names it does not match at their beginning are left out.
One JSON line a network goes to FILE: its name, what came of it, and a sentence. A network that ends its process is
"crashed", and the next process goes on behind it. Needs a GPU.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import zoo
from zoo.comparing import difference
from zoo.engine import recording_logger
from zoo_cases import chosen, defined, line_of, write_line

from trtllm_ext.oracle import OracleError, evaluate
from trtllm_ext.runtime.cuda import DeviceCopies

# Beyond this, relative to the tensor's largest value, a difference is one of meaning and not of rounding.
MEANING = 2e-2


def try_case(case: zoo.Case, trt: Any, builder: Any, logger: Any, memory: DeviceCopies) -> tuple[str, str]:
    """What came of it ("same", "close", "differs", "refused ..."), and a sentence. Raises zoo_cases.RefusedError."""
    feeds = case.feeds()
    network = defined(case, trt, builder, logger)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    strong = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    if strong is None or not network.get_flag(strong):
        config.set_flag(trt.BuilderFlag.FP16)
    # What counts is the meaning: no libraries to load, no tactics to time.
    config.builder_optimization_level = 0
    config.set_tactic_sources(0)
    zoo.add_profile(builder, network, config, case, feeds)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return "refused at build", " | ".join(logger.messages)
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    context = engine.create_execution_context()
    verdicts = [_compared(case, trt, network, context, feed, memory, logger) for feed in feeds]
    return max(verdicts, key=lambda verdict: _SEVERITY.index(verdict[0]))


_SEVERITY = ["same", "close", "oracle refuses", "differs", "refused at run"]


def _compared(
    case: zoo.Case, trt: Any, network: Any, context: Any, feed: zoo.Feed, memory: DeviceCopies, logger: Any
) -> tuple[str, str]:
    engine = context.engine
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    results: dict[str, np.ndarray] = {}
    kept = []
    for name in names:
        if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
            array = np.asarray(feed[name], order="C")
            kept.append(array)
            if not context.set_input_shape(name, array.shape):
                return "refused at run", f"set_input_shape: {' | '.join(logger.messages)}"
            on_host = engine.is_shape_inference_io(name)
            address = array.ctypes.data if on_host else memory.room(name, array.nbytes)
            if not on_host:
                memory.cuda.upload(address, array.ctypes.data, array.nbytes)
            context.set_tensor_address(name, address)
    late: dict[str, Any] = {}
    for name in set(names) - set(feed):
        shape = tuple(context.get_tensor_shape(name))
        if -1 in shape:
            late[name] = _allocator(trt, memory)
            context.set_output_allocator(name, late[name])
            continue
        results[name] = np.empty(shape, _numpy(engine, name))
        context.set_tensor_address(name, memory.room(name, max(results[name].nbytes, 1)))
    if not context.execute_async_v3(0):
        return "refused at run", " | ".join(logger.messages)
    memory.cuda.synchronize(0)
    results |= {name: np.empty(one.shape, _numpy(engine, name)) for name, one in late.items()}
    for name, array in results.items():
        memory.cuda.download(array.ctypes.data, memory.room(name, 1), array.nbytes)
    try:
        want = evaluate(network, trt, feed)
    except OracleError as error:
        return "oracle refuses", str(error)
    return max(
        (_verdict(case, name, results[name], value) for name, value in want.items()),
        key=lambda verdict: _SEVERITY.index(verdict[0]),
    )


def _numpy(engine: Any, name: str) -> np.dtype[Any]:
    return zoo.NUMPY[str(engine.get_tensor_dtype(name)).split(".")[1]]


def _allocator(trt: Any, memory: DeviceCopies) -> Any:
    """Memory for an output whose shape only the run shows; `shape` is what it was told."""

    class Allocator(trt.IOutputAllocator):
        def __init__(self) -> None:
            super().__init__()
            self.shape: tuple[int, ...] = ()

        def reallocate_output(self, name: str, memory_: int, size: int, alignment: int) -> int:
            return memory.room(name, size)

        def reallocate_output_async(
            self, name: str, memory_: int, size: int, alignment: int, stream: int
        ) -> int:
            return memory.room(name, size)

        def notify_shape(self, name: str, shape: Any) -> None:
            self.shape = tuple(shape)

    return Allocator()


def _verdict(case: zoo.Case, name: str, got: np.ndarray, want: np.ndarray) -> tuple[str, str]:
    complaint = difference(case, name, got, want)
    if complaint is None:
        return "same", ""
    if got.shape == want.shape and want.dtype == np.float64:
        finite = np.isfinite(want)
        scale = np.abs(want[finite]).max(initial=1e-30)
        wide = got.astype(np.float64)
        if (
            np.isfinite(wide[finite]).all()
            and np.abs(wide[finite] - want[finite]).max(initial=0.0) <= MEANING * scale
        ):
            return "close", complaint
    return "differs", complaint


def work(numbers: list[int], path: Path, until: float) -> None:
    """Try the cases of these numbers, one line each, and a line before each that names it."""
    import tensorrt as trt

    memory = DeviceCopies()
    logger = recording_logger(trt)
    builder = trt.Builder(logger)
    with path.open("a", encoding="utf-8") as out:
        for number in numbers:
            if time.monotonic() > until:
                return
            case = zoo.CASES[number]
            write_line(out, {"begins": number, "name": case.name})
            write_line(out, line_of(case, partial(try_case, case, trt, builder, logger, memory)))


def shepherd(numbers: list[int], path: Path, until: float) -> list[dict[str, str]]:
    """Run `work` in processes of its own until all cases have a line."""
    lines: list[dict[str, str]] = []
    while numbers and time.monotonic() < until:
        path.unlink(missing_ok=True)
        left = until - time.monotonic()
        command = [sys.executable, __file__, "--work", json.dumps(numbers), str(path), str(left)]
        environment = {**os.environ, "CUDA_MODULE_LOADING": "LAZY"}
        quiet = subprocess.DEVNULL
        subprocess.run(command, env=environment, check=False, stdout=quiet, stderr=quiet)
        found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        ended = [line for line in found if "came" in line]
        begun = [line["begins"] for line in found if "begins" in line]
        lines += ended
        if len(begun) > len(ended):
            lines.append({"name": zoo.CASES[begun[-1]].name, "came": "crashed", "why": "the process ended"})
        if not begun:
            break
        numbers = numbers[numbers.index(begun[-1]) + 1 :]
    return lines


def main(path: Path, seconds: float, processes: int, pattern: str) -> None:
    until = time.monotonic() + seconds
    # In any order, so that a run that is cut short has seen something of every family.
    order = chosen(pattern)
    random.Random(0).shuffle(order)
    shares = [(order[start::processes], path.with_suffix(f".{start}"), until) for start in range(processes)]
    with ThreadPool(processes) as pool:
        lines = [line for share in pool.starmap(shepherd, shares) for line in share]
    for _, part, _ in shares:
        part.unlink(missing_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in sorted(lines, key=lambda line: line["name"])))
    counts = dict(Counter(line["came"] for line in lines))
    sys.stdout.write(f"{len(lines)} of {len(order)} networks: {counts}\n")


if __name__ == "__main__":
    if sys.argv[1] == "--work":
        work(json.loads(sys.argv[2]), Path(sys.argv[3]), time.monotonic() + float(sys.argv[4]))
    else:
        given = sys.argv[1:]
        main(
            Path(given[0]),
            float(given[1]) if len(given) > 1 else 3600.0,
            int(given[2]) if len(given) > 2 else 1,
            given[3] if len(given) > 3 else "",
        )
