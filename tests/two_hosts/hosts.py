"""Two hosts on one machine: a network, a name and shared memory of their own each, and a cable between them.

Processes of the second are hidden from the first, as on another machine; the first one's are those of this machine.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

NAMES = ("left", "right")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
INTERFACE = "cable"
TOOLS = ("ip", "tc", "mount", "unshare", "nsenter")
SETUP_S = 10

# The first process of a host: when its input ends, for whatever reason, so does the host, with all that runs there.
# MPI looks for interfaces below /sys, and takes processes that share memory for those of one host.
_INIT = """\
echo {name} > /proc/sys/kernel/hostname && ip link set lo up &&
mount -t sysfs none /sys && mount -t tmpfs none /dev/shm && echo ready && exec cat
"""
_OWN = ("--net", "--uts", "--ipc", "--mount")
# What an MPI launcher calls in ssh's place: hook [options] HOST COMMAND...
_HOOK = """\
#!/bin/sh
while case $1 in -*) true ;; *) false ;; esac; do shift; done
host=$1
shift
case $host in
{cases}
*) echo "no host $host" >&2; exit 255 ;;
esac
exec nsenter --target "$pid" {own} --pid sh -c "$*"
"""


class HostsError(Exception):
    """Why hosts cannot be made here."""


class Hosts:
    """pids: of the first process of each host. own: of all that keep them up. folder: for what launchers need."""

    def __init__(self, pids, own, folder):
        self.pids, self._own = pids, own
        cases = "\n".join(f"{address}) pid={pid} ;;" for address, pid in zip(ADDRESSES, pids, strict=True))
        self._hook, self._list = Path(folder) / "on_host.sh", Path(folder) / "hosts"
        self._hook.write_text(_HOOK.format(cases=cases, own=" ".join(_OWN)))
        self._hook.chmod(0o755)
        self._list.write_text("\n".join(ADDRESSES) + "\n")

    def on(self, host, command):
        """`command`, as one that runs on a host, but for being hidden."""
        return ["nsenter", "--target", str(self.pids[host]), *_OWN, *command]

    def mpiexec(self, launcher):
        """MPICH's launcher, one rank on each host."""
        spread = ["-launcher", "ssh", "-launcher-exec", str(self._hook), "-iface", INTERFACE]
        return [launcher, *spread, "-f", str(self._list), "-ppn", "1"]

    def limit(self, rate):
        """Make the cable carry no more than `rate`, as tc writes it ("100mbit")."""
        for host in (0, 1):
            limit = ["root", "tbf", "rate", rate, "burst", "64kb", "latency", "1s"]
            _command(self.on(host, ["tc", "qdisc", "add", "dev", INTERFACE, *limit]))

    def sent(self):
        """Bytes that the first host has put on the cable."""
        for line in Path(f"/proc/{self.pids[0]}/net/dev").read_text().splitlines():
            name, _, counts = line.partition(":")
            if name.strip() == INTERFACE:
                return int(counts.split()[8])
        raise AssertionError("the first host has no cable")

    def cut(self):
        _command(self.on(0, ["ip", "link", "set", INTERFACE, "down"]))

    def processes(self, host):
        """The command lines by process id of what was started on a host."""
        found, network = {}, Path(f"/proc/{self.pids[host]}/ns/net").readlink()
        for process in Path("/proc").glob("[0-9]*"):
            # Without a command line: one that has ended and that nobody has asked how.
            with suppress(OSError):
                if process.joinpath("ns/net").readlink() == network and int(process.name) not in self._own:
                    words = process.joinpath("cmdline").read_text().strip("\0").split("\0")
                    found[int(process.name)] = " ".join(words)
        return {pid: command for pid, command in found.items() if command}

    def end(self):
        """Whatever runs on them."""
        for host in (0, 1):
            for pid in self.processes(host):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@contextmanager
def two_hosts(folder):
    """Hosts for as long as the context is open; whatever still runs on them then is ended.

    folder: for what launchers need. Raises HostsError, with the reason, where that is not possible.
    """
    if sys.platform != "linux" or os.geteuid() != 0:
        raise HostsError("namespaces of a network need Linux and root")
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise HostsError(f"not on the PATH: {', '.join(missing)} (packages iproute2 and util-linux)")
    with ExitStack() as stack:
        own = [stack.enter_context(_host(name, host > 0)) for host, name in enumerate(NAMES)]
        pids = [each[-1] for each in own]
        first, second = (["--target", str(pid), "--net", "ip"] for pid in pids)
        peer = ["peer", "name", INTERFACE, "netns", str(pids[1])]
        _command(["nsenter", *first, "link", "add", INTERFACE, "type", "veth", *peer])
        for place, address in zip((first, second), ADDRESSES, strict=True):
            _command(["nsenter", *place, "addr", "add", f"{address}/24", "dev", INTERFACE])
            _command(["nsenter", *place, "link", "set", INTERFACE, "up"])
        for pid in pids:
            _await_carrier(pid)
        hosts = Hosts(pids, {pid for each in own for pid in each}, folder)
        stack.callback(hosts.end)
        yield hosts


@contextmanager
def _host(name, hides):
    """The process ids of what keeps a new host up, its first process last. hides: its processes from others."""
    hidden = ["--pid", "--fork", "--kill-child", "--mount-proc"] if hides else []
    process = subprocess.Popen(
        ["unshare", *_OWN, *hidden, "sh", "-c", _INIT.format(name=name)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        if process.stdout.readline() != "ready\n":
            raise HostsError(f"unshare: {process.communicate(timeout=SETUP_S)[1].strip()}")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        yield [process.pid, *map(int, children.split())]
    finally:
        process.kill()
        process.communicate()


def _await_carrier(pid):
    state = Path("/proc", str(pid), "root", "sys/class/net", INTERFACE, "operstate")
    deadline = time.monotonic() + SETUP_S
    while state.read_text() != "up\n":
        if time.monotonic() > deadline:
            raise HostsError(f"the link between them does not come up: {state.read_text().strip()}")
        time.sleep(0.01)


def _command(words):
    done = subprocess.run(words, capture_output=True, text=True, timeout=SETUP_S, check=False)
    if done.returncode:
        raise HostsError(f"{shlex.join(words)}: {done.stderr.strip()}")
