"""Where a hub can be reached: addresses of this host, which need no names to be resolved."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from pathlib import Path

from . import processes

Address = tuple[str, int]

_SIOCGIFADDR = 0x8915  # of Linux: the IPv4 address of an interface


def network_id() -> str:
    """The same for two processes exactly when they reach one another over loopback: system and network namespace."""
    return f"{socket.gethostname()} {processes.system_and('net')}"


def own_addresses() -> list[str]:
    """IPv4 and IPv6 addresses of this host's interfaces, loopback last."""
    found = [address for _, name in socket.if_nameindex() for address in _ipv4(name)]
    found += _ipv6()
    loopback = [address for address in found if address.startswith("127.") or address == "::1"]
    return [address for address in found if address not in loopback] + loopback


def _ipv4(interface: str) -> list[str]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", os.fsencode(interface)[:15]))
        except OSError:  # an interface without one
            return []
    return [socket.inet_ntoa(answer[20:24])]


def _ipv6() -> list[str]:
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        digits, _, _, scope, _, _ = line.split()
        address = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits))
        # A link's own address means nothing without the interface, which has another name on the other host.
        if scope != "20":
            found.append(address)
    return found
