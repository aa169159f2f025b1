"""A Ray cluster of machines that share nothing but a network, on one machine.

    with Network() as network:
        head = network.machine("head").start(cpus=0)
        worker = network.machine("one").start(head, cpus=2)
        worker.lose()

Each machine is a network namespace with its own address on one bridge, and has its own folder where
Ray keeps sockets and logs, so that nothing passes by the network. What they do share is a host name
and process numbers, so that a claim of a lost machine is dropped sooner than elsewhere. Needs root.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ray_nodes import TOKEN

RAY_FOLDER = Path("/tmp/ray")
SETTINGS = {
    **TOKEN,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # work is no nicer than the machines that wait for it
    "RAY_prestart_worker_first_driver": "0",  # nor do processes start that nothing may need
    "GLOO_SOCKET_IFNAME": "eth0",  # which gloo would seek by the host's name, which all share
    # A node that is gone is noticed in seconds; Ray's own patience is about a minute.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
}


def missing() -> str:
    """What this machine lacks to have such networks; empty if nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need root on Linux"
    if shutil.which("ip") is None:
        return "network namespaces need the program `ip` (iproute2)"
    name = f"rt{os.getpid()}x"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    if made.returncode:
        return f"network namespaces cannot be made here: {made.stderr.decode().strip()}"
    _ip("netns", "del", name)
    return ""


class Network:
    """A bridge, to which this machine has an address, and machines on it.

    Args:
        environment: What the processes of every machine are given besides ``SETTINGS``.
    """

    numbers = itertools.count()

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        number = next(self.numbers)
        self.name = f"rt{os.getpid()}n{number}"
        first = ipaddress.ip_address("10.77.0.0") + (os.getpid() + number) % 256 * 256
        self.addresses = iter(ipaddress.ip_network(f"{first}/24").hosts())
        self.address = str(next(self.addresses))
        """This machine's own."""
        self.environment = {**SETTINGS, **(environment or {})}
        self.machines: list[Machine] = []
        self.made = 0

    def __enter__(self) -> Network:
        self.folder = Path(tempfile.mkdtemp(prefix="rt-"))
        try:
            _ip("link", "add", self.name, "type", "bridge")
            _ip("address", "add", f"{self.address}/24", "dev", self.name)
            _ip("link", "set", self.name, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.ExitStack() as stack:  # what cannot be ended keeps nothing else alive
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            stack.callback(_ip, "link", "del", self.name, check=False)
            for machine in self.machines:
                stack.callback(machine.lose)

    def machine(self) -> Machine:
        """A new machine, on which nothing runs."""
        self.made += 1
        machine = Machine(self, f"{self.name}m{self.made}", str(next(self.addresses)))
        self.machines.append(machine)
        machine.plug_in()
        return machine


class Machine:
    """One machine of a network."""

    def __init__(self, network: Network, name: str, address: str) -> None:
        self.network, self.name, self.address = network, name, address
        self.folder = network.folder / name

    def plug_in(self) -> None:
        """Give it its address on the bridge."""
        near, far = f"{self.name}a", "eth0"
        _ip("netns", "add", self.name)
        _ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", self.name)
        _ip("link", "set", near, "master", self.network.name, "up")
        _ip("-n", self.name, "address", "add", f"{self.address}/24", "dev", far)
        for link in ("lo", far):
            _ip("-n", self.name, "link", "set", link, "up")
        _ip("-n", self.name, "route", "add", "default", "via", self.network.address)
        self.folder.mkdir()

    @property
    def log(self) -> Path:
        """What programs that were started on it say."""
        return self.network.folder / f"{self.name}.log"

    def run(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a program on it."""
        RAY_FOLDER.mkdir(exist_ok=True)
        own_folder = f'mount --bind "{self.folder}" "{RAY_FOLDER}" && exec "$@"'
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        own = {"PATH": path, "XDG_CACHE_HOME": f"{self.folder}/cache"}
        environment = {**os.environ, **own, **self.network.environment}
        for name in ("RAY_ADDRESS", "RAY_TMPDIR", "TMPDIR", "PYTHONPATH"):
            environment.pop(name, None)
        with self.log.open("ab") as log:  # a pipe would stay open as long as Ray runs
            return subprocess.Popen(
                ["ip", "netns", "exec", self.name, "sh", "-c", own_folder, "sh", *command],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment,
            )  # fmt: skip

    def start(self, head: Machine | None = None, *, cpus: int) -> Machine:
        """Begin to start Ray on it, as the head if there is none; ``up`` waits for the end."""
        role: Sequence[str] = ("--head", "--port=6379", f"--dashboard-host={self.address}")
        if head is not None:
            role = (f"--address={head.address}:6379",)
        self.command = (
            "ray", "start", *role, f"--node-ip-address={self.address}", f"--num-cpus={cpus}",
            "--object-store-memory=120000000", "--include-log-monitor=false",
            "--disable-usage-stats",
        )  # fmt: skip
        self.attempts = 0
        self._attempt()
        return self

    def _attempt(self) -> None:
        self.attempts += 1
        self.given_up = time.monotonic() + 180
        self.starting = self.run(*self.command)

    def is_up(self) -> bool:
        """Whether Ray has started on it.

        Ray gives a node half a minute, a limit that it has no setting for; on a busy machine it
        takes longer, and is tried again.
        """
        code = self.starting.poll()
        if code is None:
            assert time.monotonic() < self.given_up, f"Ray does not start:\n{self.log.read_text()}"
        elif code:
            assert self.attempts < 3, f"Ray does not start:\n{self.log.read_text()}"
            self.kill()
            self._attempt()
        return code == 0

    def up(self) -> Machine:
        """Wait until Ray has started on it."""
        while not self.is_up():
            time.sleep(0.1)
        return self

    def processes(self) -> dict[int, str]:
        """Its processes and their names."""
        found = {}
        listed = subprocess.run(
            ["ip", "netns", "pids", self.name], capture_output=True, check=False
        ).stdout
        for pid in map(int, listed.split()):
            with contextlib.suppress(OSError):
                name = Path(f"/proc/{pid}/cmdline").read_bytes()
                found[pid] = name.replace(b"\0", b" ").decode(errors="replace").strip()
        return found

    def runs(self, what: str) -> bool:
        """Whether a process of this name runs on it, as Ray names its workers."""
        return any(what in name for name in self.processes().values())

    def kill(self) -> None:
        """End all its processes."""
        deadline = time.monotonic() + 30
        while pids := self.processes():
            assert time.monotonic() < deadline, f"{self.name} lives on: {pids}"
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)

    def lose(self) -> None:
        """End it as a loss of power does: off the network, and all its processes gone at once.

        What it kept of its own is gone, too.
        """
        _ip("link", "set", f"{self.name}a", "down", check=False)
        self.kill()
        _ip("link", "del", f"{self.name}a", check=False)
        _ip("netns", "del", self.name, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)
        if self in self.network.machines:
            self.network.machines.remove(self)


def _ip(*arguments: str, check: bool = True) -> None:
    """Change the network; unchecked, what is changed may not be there."""
    subprocess.run(["ip", *arguments], check=check, capture_output=True)
