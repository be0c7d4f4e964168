"""The server: from a runner and settings to answers, until a signal ends it."""

import asyncio
import contextlib
import gc
import logging
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import uvloop
from mlserver import Settings
from mlserver.metrics.server import MetricsServer
from mlserver.registry import MultiModelRegistry

from trtllm_ext.errors import EngineError, RankError
from trtllm_ext.serve.batcher import Batcher
from trtllm_ext.serve.grpc_service import GrpcListener
from trtllm_ext.serve.held import Held
from trtllm_ext.serve.http_app import HttpApp
from trtllm_ext.serve.http_body import BodyReader
from trtllm_ext.serve.http_listener import HttpListener
from trtllm_ext.serve.metrics import Metrics
from trtllm_ext.serve.model import EngineModel, model_settings
from trtllm_ext.serve.over_ranks import Leaving
from trtllm_ext.serve.plane import ServingPlane
from trtllm_ext.serve.ports import allow_many_connections, check_free, listening_socket
from trtllm_ext.serve.runner import Runner
from trtllm_ext.serve.settings import LINGER_S, ServeSettings, linger_s
from trtllm_ext.version import __version__

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# A launcher and a terminal may send the same wish twice: to the group of processes, and on to each.
_SAME_SIGNAL_S = 1.0
# How long a thread of Python keeps others waiting; its own 5 ms are as long as a small engine's run.
_SWITCH_S = 0.0005
# How long a second signal, or the deadline, goes unheard while the runner ends.
_STEP_S = 0.05


def serve(
    make_runner: Callable[[], Runner],
    settings: ServeSettings,
    tell: Callable[[str], None],
    leaving: Leaving | None = None,
) -> None:
    """Serve a runner until SIGTERM or SIGINT, and return when everything that was accepted is answered.

    Ports are taken first, then `make_runner` is called, then the server listens, of which `tell` gets a line.
    leaving: by which others may ask it to end, as a first signal does.
    Raises ConfigError for a port that cannot be had, what `make_runner` raises, the RankError of a runner that can run
    no more, and EngineError when a second signal, or the time for answering, comes before all is answered.
    """
    allow_many_connections()
    sockets = {
        name: listening_socket(settings.host, getattr(settings, name), f"--{name}")
        for name in ("http_port", "metrics_port")
    }
    check_free(settings.host, settings.grpc_port, "--grpc_port")
    runner = make_runner()
    _quiet()
    # What was imported and loaded stays: looking it all over for garbage takes a tenth of a second, again and again.
    gc.collect()
    gc.freeze()
    # A run that has ended waits no longer for the thread that reads requests to let it go on.
    sys.setswitchinterval(_SWITCH_S)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(_Server(runner, settings, sockets, leaving or Leaving()).run(tell))


class _Server:
    def __init__(
        self, runner: Runner, settings: ServeSettings, sockets: dict[str, Any], leaving: Leaving
    ) -> None:
        self._settings = settings
        self._leaving = leaving
        self._metrics = Metrics()
        self._batcher = Batcher(
            runner,
            max_rows=settings.max_batch_size,
            max_delay_s=settings.max_queue_delay_microseconds * 1e-6,
            max_queue=settings.max_queue_size,
            observer=self._metrics,
            on_end=self._runner_ended,
        )
        self._metrics.watch(self._batcher)
        self._registry = MultiModelRegistry(model_initialiser=lambda told: EngineModel(told, self._batcher))
        its = _mlserver_settings(settings)
        self._plane = ServingPlane(its, self._registry, self._metrics, settings.model_name)
        self._held = Held(settings.max_request_bytes)
        bodies = BodyReader(settings.max_request_bytes, settings.request_timeout, self._held)
        app = HttpApp(its, self._plane, bodies, self._held)
        timeout = settings.request_timeout
        self._http = HttpListener(app, sockets["http_port"], timeout)
        self._counts = HttpListener(MetricsServer(its)._app, sockets["metrics_port"], timeout)
        self._ports = {name: each.getsockname()[1] for name, each in sockets.items()}
        self._problem: BaseException | None = None
        self._asked_at = 0.0

    async def run(self, tell: Callable[[str], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._asked, self._hurried = asyncio.Event(), asyncio.Event()
        for number in _SIGNALS:
            self._loop.add_signal_handler(number, self._on_signal)
        self._leaving.is_done_by(self._on_asked)
        self._grpc = GrpcListener(self._plane, self._settings, self._held)
        await self._start()
        listeners = [asyncio.create_task(each.run_until_left()) for each in (self._http, self._counts)]
        await asyncio.gather(self._http.listens.wait(), self._counts.listens.wait())
        tell(self._where())
        await self._asked.wait()
        in_time = await self._leave(listeners)
        if self._problem is not None:
            raise self._problem
        if not in_time:
            raise EngineError(
                f"ended before all was answered: {self._batcher.unanswered} request(s) were waiting or running, "
                f"{len(self._http.server_state.connections)} HTTP connection(s) open."
            )

    async def _start(self) -> None:
        await self._registry.load(model_settings(self._settings.model_name))
        wanted = self._settings.grpc_port
        self._ports["grpc_port"] = await self._grpc.start(self._settings.host, wanted)

    def _on_signal(self) -> None:
        if not self._asked.is_set():
            self._asked_at = time.monotonic()
        elif time.monotonic() - self._asked_at > _SAME_SIGNAL_S:
            self._hurried.set()
        self._asked.set()

    def _on_asked(self) -> None:
        """From any thread."""
        with contextlib.suppress(RuntimeError):  # a loop that was closed has left already
            self._loop.call_soon_threadsafe(self._asked.set)

    def _runner_ended(self, problem: BaseException) -> None:
        self._problem = (
            problem if isinstance(problem, RankError) else RuntimeError(f"the runner ended: {problem!r}")
        )
        self._loop.call_soon_threadsafe(self._asked.set)

    async def _leave(self, listeners: list[asyncio.Task[None]]) -> bool:
        """Answer what was accepted, then end all; whether that was done before the deadline or another signal."""
        self._plane.is_leaving = True
        deadline = self._settings.exit_timeout_secs
        end = time.monotonic() + deadline
        leaving = asyncio.gather(
            self._http.leave(linger_s(deadline)), listeners[0], self._grpc.leave(deadline)
        )
        hurried = asyncio.create_task(self._hurried.wait())
        waits: set[asyncio.Future[Any]] = {leaving, hurried}
        await asyncio.wait(waits, timeout=deadline, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not leaving.done():
            leaving.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            leaving.cancel()
            self._http.cut()
            self._counts.cut()
            logging.getLogger("uvicorn.error").setLevel(
                logging.CRITICAL
            )  # one sentence tells of all that is cut off
            return False
        leaving.result()
        self._counts.should_exit = True
        await asyncio.wait(listeners[1:], timeout=LINGER_S)
        self._counts.cut()
        await listeners[1]
        # In steps: nothing else ends a thread that waits for another.
        while not await asyncio.to_thread(self._batcher.close, _STEP_S):
            if self._hurried.is_set() or time.monotonic() > end:
                return False
        return True

    def _where(self) -> str:
        host, name = self._settings.host, self._settings.model_name
        shown = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, f"[{host}]" if ":" in host else host)
        http = f"http://{shown}:{self._ports['http_port']}"
        return (
            f"serving {name!r}: HTTP on {host}:{self._ports['http_port']}, gRPC on {host}:{self._ports['grpc_port']}, "
            f"metrics on {host}:{self._ports['metrics_port']}; try curl {http}/v2/models/{name}"
        )


def _mlserver_settings(settings: ServeSettings) -> Settings:
    """mlserver's settings: all that matter are said, since it would read others from the environment."""
    return Settings(
        debug=False,
        parallel_workers=0,
        server_name="trtllm_ext",
        server_version=__version__,
        extensions=["binary_tensor_data"],
        host=settings.host,
        http_port=settings.http_port,
        grpc_port=settings.grpc_port,
        metrics_port=settings.metrics_port,
        root_path="",
        cors_settings=None,
        metrics_endpoint="/metrics",
        metrics_rest_server_prefix="rest_server",
        kafka_enabled=False,
        tracing_server=None,
        cache_enabled=False,
        gzip_enabled=False,  # numbers do not pack, and many clients ask for it without meaning to
        load_models_at_startup=False,
        logging_settings=None,
    )


def _quiet() -> None:
    """What clients do wrong is theirs to know, by the answer; the log has what goes wrong here."""
    if not logging.getLogger().isEnabledFor(logging.INFO):
        for name in ("mlserver", "asyncio"):
            logging.getLogger(name).setLevel(logging.ERROR)
        # Errors of requests are told by the plane; uvicorn's own are connections that broke while it wrote.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    elif not logging.getLogger().isEnabledFor(logging.DEBUG):
        # Its two servers, of requests and of metrics, each tell of their process what one line of ours says.
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
