"""Ports to listen on, taken before anything slow begins."""

import errno
import resource
import socket

from trtllm_ext.errors import ConfigError


def listening_socket(host: str, port: int, option: str) -> socket.socket:
    """A socket bound to `host` and `port`, 0 for a free one. Raises ConfigError, naming the option."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as problem:
        raise ConfigError(f"--host {host} is no address of this machine: {_reason(problem)}.") from None
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.set_inheritable(False)
    except OSError as problem:
        bound.close()
        raise cannot_listen(host, port, option, problem) from None
    return bound


def check_free(host: str, port: int, option: str) -> None:
    """Raise ConfigError, naming the option, unless something could listen there now."""
    with listening_socket(host, port, option) as bound:
        try:
            bound.listen(1)
        except OSError as problem:
            raise cannot_listen(host, port, option, problem) from None


def cannot_listen(host: str, port: int, option: str, problem: OSError | None = None) -> ConfigError:
    """The error for a port that cannot be had."""
    if problem is None or problem.errno == errno.EADDRINUSE:
        return ConfigError(
            f"port {port} of {host} is in use by another program; give {option} another one, or 0 for one that is free."
        )
    if problem.errno == errno.EACCES:
        return ConfigError(f"port {port} needs rights that this user has not; give {option} one above 1023.")
    return ConfigError(f"cannot listen on port {port} of {host}: {_reason(problem)}.")


def allow_many_connections() -> None:
    """Let this process have as many open files as it may: each connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _reason(problem: OSError) -> str:
    return (problem.strerror or str(problem)).lower()
