"""Serve an engine by the Open Inference Protocol (KServe v2): HTTP and gRPC, with dynamic batching.

Requests that arrive while the engine runs wait, and those that fit each other run together: tokens of a stack,
sentences of an encoder. It ends with SIGTERM or Ctrl-C, when everything that it has accepted is answered.
Prometheus finds metrics at http://HOST:METRICS_PORT/metrics. With --input text an encoder takes sentences.

An engine of N ranks is served by N processes, of which rank 0 listens: with --nproc N here, or with
mpirun -n N trtllm-ext serve ....

It listens on this machine alone; --host 0.0.0.0 lets others in. There are no passwords and no encryption here: put it
behind something that has them.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_ext.cli.options import add_session_options, open_session
from trtllm_ext.cli.ranks import is_first, on_all, on_ranks
from trtllm_ext.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from trtllm_ext.parallel import Communicator
    from trtllm_ext.runtime import LeadingSession, Session
    from trtllm_ext.serve.runner import Runner
    from trtllm_ext.serve.settings import ServeSettings

_NUMBERS: tuple[tuple[str, type, str], ...] = (
    ("http_port", int, "port for HTTP (default: 8000; 0: one that is free)"),
    ("grpc_port", int, "port for gRPC (default: 8001)"),
    ("metrics_port", int, "port for metrics (default: 8002)"),
    (
        "max_batch_size",
        int,
        "most rows that requests are joined to (default: the engine's own; 1: none are joined)",
    ),
    (
        "max_queue_delay_microseconds",
        int,
        "how long a request waits for others while the engine is idle (default: 0)",
    ),
    ("max_queue_size", int, "most requests that wait; more are refused (default: 512)"),
    ("max_request_bytes", int, "most bytes of a request (default: 67108864)"),
    ("request_timeout", float, "seconds in which an HTTP request must have arrived (default: 30)"),
    ("exit_timeout_secs", float, "seconds for requests that were accepted before SIGTERM (default: 30)"),
)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    parser = commands.add_parser("serve", help="an engine behind HTTP and gRPC, for standard clients")
    add_session_options(parser)
    parser.add_argument(
        "--model_name", metavar="NAME", help="its name in addresses (default: that of the engine directory)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument(
        "--input",
        choices=("tensors", "text"),
        default="tensors",
        help="what clients send: the engine's own inputs (default), or sentences to an encoder",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="PATH",
        help="of --input text: tokenizer.json or a folder with it (default: the one beside the engine)",
    )
    for name, kind, text in _NUMBERS:
        parser.add_argument(f"--{name}", type=kind, metavar="N", help=text)
    return parser


def run(arguments: argparse.Namespace) -> int:
    return on_ranks(arguments, lambda world: _run(arguments, world), is_led=True)


def _run(arguments: argparse.Namespace, world: "Communicator | None") -> int:
    settings = _settings(arguments)
    if world is None:
        _check_ports(settings)
        _server()(lambda: _runner_of(_open_session(arguments, None), arguments), settings, _tell)
        return 0

    from trtllm_ext.serve.over_ranks import serve_over_ranks

    # Before engines are loaded, which takes long.
    on_all(world, lambda: _check(settings) if is_first(world) else None, what="importing mlserver")
    with _open_session(arguments, world) as session:
        serve_over_ranks(
            session,
            world,
            lambda leading, leaving: _server()(
                lambda: _runner_of(leading, arguments), settings, _tell, leaving
            ),
        )
    return 0


def _check(settings: "ServeSettings") -> None:
    """Raise this package's error where the library is missing, or a port is not to be had."""
    _check_ports(settings)
    _server()


def _check_ports(settings: "ServeSettings") -> None:
    """Before the library is imported, which takes two seconds."""
    from trtllm_ext.serve.ports import check_free

    for name in ("http_port", "grpc_port", "metrics_port"):
        check_free(settings.host, getattr(settings, name), f"--{name}")


def _server() -> "Callable[..., None]":
    try:
        from trtllm_ext.serve.serving import serve
    except ImportError as problem:
        raise EngineError(
            f"serve needs the package {problem.name or problem}, which is not installed. In the checkout: "
            f"pip install -c constraints.txt '.[serve]'"
        ) from None
    return serve


def _tell(line: str) -> None:
    print(line, flush=True)


def _settings(arguments: argparse.Namespace) -> "ServeSettings":
    from trtllm_ext.serve.settings import ServeSettings

    if arguments.tokenizer is not None and arguments.input != "text":
        raise ConfigError(
            "--tokenizer makes tokens of sentences, which clients send with --input text; add that."
        )
    given = {
        name: getattr(arguments, name) for name, _, _ in _NUMBERS if getattr(arguments, name) is not None
    }
    name = arguments.model_name
    if name is None:
        name = Path(arguments.engine_dir).resolve().name
    try:
        return ServeSettings(model_name=name, host=arguments.host, **given)
    except ConfigError as problem:
        if arguments.model_name is None and str(problem).startswith("model_name"):
            raise ConfigError(f"{problem} Give one with --model_name.") from None
        raise


def _open_session(arguments: argparse.Namespace, world: "Communicator | None") -> "Session":
    # Reading and writing requests needs the cores while the engine's threads would wait awake: half of what many
    # clients get in all. Who sets the variable is followed.
    os.environ.setdefault("TRTLLM_EXT_SPINNING", "0")
    return open_session(arguments, world)


def _runner_of(session: "Session | LeadingSession", arguments: argparse.Namespace) -> "Runner":
    if arguments.input == "text":
        from trtllm_ext.serve.text_runner import TextRunner

        return TextRunner(session, arguments.tokenizer)
    from trtllm_ext.serve.session_runner import SessionRunner

    return SessionRunner(session)
