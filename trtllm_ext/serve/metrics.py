"""What the server counts besides mlserver's own counts, for Prometheus."""

from prometheus_client import Counter, Gauge, Histogram

from trtllm_ext.serve.batcher import Batcher
from trtllm_ext.serve.refused import Reason

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SIZES = tuple(float(2**power) for power in range(15))


class Metrics:
    """The counters of one server; a process has one."""

    def __init__(self) -> None:
        self._requests = Histogram("trtllm_ext_batch_requests", "Requests that ran together", buckets=_SIZES)
        self._rows = Histogram(
            "trtllm_ext_batch_rows",
            "Rows (tokens of a stack, sentences of an encoder) of a run",
            buckets=_SIZES,
        )
        self._run = Histogram("trtllm_ext_run_seconds", "Time of a run of the engine", buckets=_SECONDS)
        self._waited = Histogram(
            "trtllm_ext_queue_seconds", "Time from a request's acceptance to its run", buckets=_SECONDS
        )
        self._length = Gauge("trtllm_ext_queue_length", "Requests that wait for the engine")
        self._refused = Counter("trtllm_ext_refused", "Requests that got an error, by reason", ["reason"])
        for reason in Reason:
            self._refused.labels(reason.name.lower())

    def watch(self, batcher: Batcher) -> None:
        """Tell the length of this batcher's queue whenever it is asked for."""
        self._length.set_function(lambda: len(batcher))

    def ran(self, requests: int, rows: int, waited_s: list[float], took_s: float) -> None:
        """A batch has run, as `batcher.Observer` has it."""
        self._requests.observe(requests)
        self._rows.observe(rows)
        self._run.observe(took_s)
        for seconds in waited_s:
            self._waited.observe(seconds)

    def refused(self, reason: Reason) -> None:
        """A request got an error."""
        self._refused.labels(reason.name.lower()).inc()
