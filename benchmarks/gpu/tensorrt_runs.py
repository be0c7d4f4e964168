"""An engine's runs inside TensorRT, timed on the device: CUDA graphs through the driver, TensorRT's own profiler.

A Python that is made for TensorRT 8.6 has no torch, but cuda-python. On the embedded engine, where only the harness is
tried, runs are timed with the host's clock.
"""

import statistics
import time
from collections import defaultdict
from importlib import import_module
from typing import Any

import numpy as np

import trtllm_ext as tx
from trtllm_ext import backend
from trtllm_ext.runtime.cuda_python import DRIVER_MODULES

Arrays = dict[str, np.ndarray[Any, Any]]


def driver() -> Any:
    """NVIDIA's driver functions: `cuda.bindings.driver`, or the name that it had before."""
    try:
        return import_module(DRIVER_MODULES[0])
    except ImportError:
        return import_module(DRIVER_MODULES[1])


class EngineRuns:
    """One engine on one set of inputs, ready to be timed.

    results: what it gave the first time. graph_problem: why its runs are no CUDA graph, "" where they are.
    """

    def __init__(self, session: tx.Session, inputs: Arrays) -> None:
        self.session, self.inputs = session, inputs
        self.results: Arrays = session.run(inputs)
        self.graph_problem = ""
        self.on_device = backend.choice().engine == "tensorrt"
        if self.on_device:
            self._cuda = driver()
            self._stream = self._call("cuStreamCreate", self._cuda.CUstream_flags.CU_STREAM_NON_BLOCKING)
            self._events = [self._call("cuEventCreate", 0) for _ in range(2)]
            try:
                self._graph: Any = self._captured()
            except RuntimeError as problem:
                self.without_graph(str(problem))

    def without_graph(self, problem: str) -> None:
        """From here on runs are enqueued one by one."""
        self._graph, self.graph_problem = None, problem

    def seconds(self, runs: int) -> float:
        """Seconds a run, of so many one after the other."""
        if not self.on_device:
            begin = time.perf_counter()
            for _ in range(runs):
                self.session.run(self.inputs)
            return (time.perf_counter() - begin) / runs
        first, last = self._events
        self._call("cuEventRecord", first, self._stream)
        for _ in range(runs):
            if self._graph is None:
                self._enqueue()
            else:
                self._call("cuGraphLaunch", self._graph, self._stream)
        self._call("cuEventRecord", last, self._stream)
        self._call("cuEventSynchronize", last)
        return float(self._call("cuEventElapsedTime", first, last)) / 1e3 / runs

    def layer_times(self, runs: int = 10) -> dict[str, float]:
        """Microseconds of each layer by TensorRT's profiler, medians of runs; none on the embedded engine."""
        if not self.on_device:
            return {}
        seen: dict[str, list[float]] = defaultdict(list)
        context = self.session.context
        context.profiler = _profiler(seen)
        for _ in range(runs):
            self._enqueue()
            self._call("cuStreamSynchronize", self._stream)
        return {name: 1e3 * statistics.median(each) for name, each in seen.items()}

    def _captured(self) -> Any:
        """A graph of one run, on the buffers of the session's last one."""
        for _ in range(2):
            self._enqueue()
        self._call("cuStreamSynchronize", self._stream)
        mode = self._cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", self._stream, mode)
        try:
            self._enqueue()
        finally:
            graph = self._call("cuStreamEndCapture", self._stream)
        return self._call("cuGraphInstantiate", graph, 0)

    def _enqueue(self) -> None:
        if not self.session.context.execute_async_v3(int(self._stream)):
            raise RuntimeError("TensorRT could not run the engine: its log says why")

    def _call(self, name: str, *arguments: Any) -> Any:
        code, *values = getattr(self._cuda, name)(*arguments)
        if int(code):
            raise RuntimeError(f"{name} failed with {code}")
        return values[0] if values else None


def _profiler(seen: dict[str, list[float]]) -> Any:
    trt = backend.tensorrt()

    class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            seen[layer_name].append(ms)

    return Profiler()
