"""What a server is told: where it listens, how it joins requests, what it refuses."""

import re
from dataclasses import dataclass

from trtllm_ext.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
MODEL_VERSION = "1"
# A server that leaves waits until clients have sent nothing for so many seconds, and at most for so many: what is on
# its way would find a closed connection.
QUIET_S, LINGER_S = 0.25, 2.0


def linger_s(deadline_s: float) -> float:
    """How long a server waits for quiet that has `deadline_s` for all: less than that, whoever keeps sending."""
    return min(LINGER_S, deadline_s / 2)


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """The settings of one server, checked.

    model_name: as it stands in addresses. host: the address to listen on.
    http_port, grpc_port, metrics_port: 0 for one that the system gives.
    max_batch_size: most rows (tokens of a stack, sentences of an encoder) that are joined; None for as many as the
        engine takes; 1 joins nothing.
    max_queue_delay_microseconds: how long a request waits for others while the engine has nothing to do.
    max_queue_size: most requests that wait; more are refused.
    max_request_bytes: of an HTTP body, after decompression, and of a gRPC message.
    request_timeout: seconds in which an HTTP request must have arrived.
    exit_timeout_secs: how long requests that were accepted may take after SIGTERM; at least 1, since being sure that
        none is on its way takes a part of it.
    Raises ConfigError for anything out of range.
    """

    model_name: str
    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    max_batch_size: int | None = None
    max_queue_delay_microseconds: int = 0
    max_queue_size: int = 512
    max_request_bytes: int = 64 << 20
    request_timeout: float = 30.0
    exit_timeout_secs: float = 30.0

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.model_name):
            raise ConfigError(
                f"model_name={self.model_name!r} cannot stand in an address; use letters, digits, '.', '_' and '-', "
                f"beginning with a letter or digit."
            )
        for name in ("http_port", "grpc_port", "metrics_port"):
            _check(name, getattr(self, name), 0, 65535)
        _check_different_ports(self)
        if self.max_batch_size is not None:
            _check("max_batch_size", self.max_batch_size, 1)
        _check("max_queue_delay_microseconds", self.max_queue_delay_microseconds, 0, 10**8)
        _check("max_queue_size", self.max_queue_size, 1)
        _check("max_request_bytes", self.max_request_bytes, 1, 2**31 - 1)  # gRPC counts in 32 bits
        _check("request_timeout", self.request_timeout, 0.001)
        _check("exit_timeout_secs", self.exit_timeout_secs, 1)


def _check(name: str, value: float, least: float, most: float | None = None) -> None:
    if not least <= value or (most is not None and value > most):
        span = f"from {least} to {most}" if most is not None else f"{least} or more"
        raise ConfigError(f"{name}={value} is out of range; give {span}.")


def _check_different_ports(settings: ServeSettings) -> None:
    seen: dict[int, str] = {}
    for name in ("http_port", "grpc_port", "metrics_port"):
        port = getattr(settings, name)
        if port and port in seen:
            raise ConfigError(f"{seen[port]} and {name} are both {port}; give each a port of its own.")
        seen[port] = name
