"""A fleet of simulated servers on one clock: made, reached by address, asked one request at a time.

``exchange`` is what both doors call: it lets time pass for waits and delays, applies faults, and holds the lock.
"""

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.simulator import backups, daemon, endpoints, instances, profiles, snapshots, states, storage, volumes
from tests.simulator.certificates import Identity, made_up
from tests.simulator.clock import Clock, VirtualClock
from tests.simulator.faults import Broken, Fault, Faults, Way
from tests.simulator.history import Entry
from tests.simulator.http import Refused, Request, Response, refused
from tests.simulator.model import Data, Guest, Instance, Pool, Volume
from tests.simulator.server import Server

if TYPE_CHECKING:
    from tests.simulator.wire import Wire

__all__ = [
    "Fleet",
    "backups",
    "daemon",
    "endpoints",
    "instances",
    "profiles",
    "snapshots",
    "states",
    "storage",
    "volumes",
]

GIB = 1024**3
#: Who asks if a request does not say otherwise; every server trusts it.
CLIENT = "0" * 64
BRIDGE = "lxdbr0"
#: Bytes that an empty pool takes.
_METADATA = 4 * 1024**2


class Fleet:
    """``latency`` is what each request costs in virtual time, in seconds; ``seed`` makes identifiers repeatable."""

    def __init__(self, clock: Clock | None = None, *, seed: int = 0, latency: float = 0.004) -> None:
        self.clock = clock or VirtualClock()
        self.latency = latency
        self.servers: dict[str, Server] = {}
        self.faults = Faults(self)
        self.storage = storage.Storage()
        self.requests = 0
        self._random = random.Random(seed)
        #: What backups of volumes hold; their files tell only its number.
        self._backed_up: list[Instance | Volume] = []
        #: Names of servers: the first cannot reach the second.
        self.walls: set[tuple[str, str]] = set()
        self._by_address: dict[str, Server | Wire] = {}
        self._pids = 1000

    def add(
        self,
        name: str,
        *,
        driver: str = "btrfs",
        size: int = 100 * GIB,
        bandwidth: float = 200e6,
        cpus: int = 2,
        address: str = "",
        identity: Identity | None = None,
    ) -> Server:
        """A standalone server with a pool and a bridge, both in its default profile, which trusts ``CLIENT``."""
        address = address or f"https://{name}.sim:8443"
        server = Server(self, name, identity or made_up(f"{name}/0"), address=address, bandwidth=bandwidth, cpus=cpus)
        server.pools["default"] = Pool("default", driver, size, other=_METADATA)
        server.networks["default"].add(BRIDGE)
        server.profiles["default", "default"].devices = {
            "root": {"type": "disk", "path": "/", "pool": "default"},
            "eth0": {"type": "nic", "nictype": "bridged", "parent": BRIDGE},
        }
        server.trusted[CLIENT] = None
        self.servers[name] = server
        self._by_address[address] = server
        return server

    def launch(
        self,
        server: str,
        name: str,
        *,
        image: str = "tiny",
        size: int | None = None,
        guest: Guest | None = None,
        config: Mapping[str, str] | None = None,
        devices: Mapping[str, Mapping[str, str]] | None = None,
        project: str = "default",
        runs: bool = True,
    ) -> Instance:
        """An instance that is there at once, and runs; no time passes."""
        with self.clock.lock:
            there = self.servers[server]
            made = there.images[image]
            instance = Instance(
                name=name,
                project=project,
                config=dict(config or {}),
                devices={key: dict(device) for key, device in (devices or {}).items()},
                profiles=["default"],
                pool="default",
                created_at=self.clock.now(),
                guest=guest or made.guest,
            )
            instance.data = Data(self.new_generation(), 0, made.size if size is None else size)
            there.adopt(instance, runs=runs)
            return instance

    def add_volume(self, server: str, name: str, *, size: int, guest: Guest | None = None) -> Volume:
        """A custom volume of the default pool that is there at once, with one snapshot."""
        with self.clock.lock:
            data = Data(self.new_generation(), 0, size)
            volume = Volume(
                name,
                "default",
                "default",
                data=data,
                guest=guest or Guest(),
                snapshots={"first": replace(data, version=-1)},
            )
            self.servers[server].pools["default"].volumes["default", name] = volume
            self.servers[server].note_volume("volume-created", volume)
            return volume

    def leaves_orphan(self) -> bool:
        """Whether a refresh that breaks leaves the volume of a snapshot without the snapshot: three times of ten."""
        return self._random.random() < 0.3

    def exchange(self, server: Server, request: Request, *, read_timeout: float = 40.0) -> Response:
        """Answer a request as a client sees it. Raises Broken if there is no answer."""
        with self.clock.changed:
            self.requests += 1
            self._let_pass(self.latency)
            try:
                faults = self.faults.before(server, request)
            except Refused as refusal:
                return refused(refusal)
            self._reachable(server, read_timeout)
            if request.parts[2:] == ("wait",) and request.parts[0] == "operations":
                self._wait(server, request, read_timeout)
            response = server.handle(request)
            if faults:
                response = self.faults.after(server, request, response, faults)
            self.clock.changed.notify_all()
            return response

    def _reachable(self, server: Server, read_timeout: float) -> None:
        """Raises Broken if its daemon is dead, or frozen for longer than the client waits."""
        if not server.is_up:
            raise Broken(Way.REFUSED)
        if server.is_frozen and not self.clock.wait(lambda: not server.is_frozen, read_timeout):
            raise Broken(Way.SILENT)

    def _wait(self, server: Server, request: Request, read_timeout: float) -> None:
        """Let time pass until an operation has ended, as ``/wait`` does."""
        operation = server.operations.find(request.parts[1])
        if operation is None or not server.trusts(request.client):
            return
        asked = float(request.query.get("timeout") or -1)
        pid = server.pid

        def over() -> bool:
            return operation.is_finished or server.pid != pid

        if not self.clock.wait(over, read_timeout if asked < 0 else asked) and asked < 0:
            raise Broken(Way.SILENT)
        if server.pid != pid:
            raise Broken(Way.CUT)
        self._reachable(server, read_timeout)

    def _let_pass(self, seconds: float) -> None:
        if isinstance(self.clock, VirtualClock):
            self.clock.advance(seconds)
        else:
            self.clock.run_due()

    def inject(self, *faults: Fault) -> None:
        """Have these faults happen, at once or when their time has come."""
        with self.clock.changed:
            for each in faults:
                self.faults.add(each)
            self.clock.changed.notify_all()

    def history(self) -> list[Entry]:
        """What happened on all servers, in the order of time."""
        return sorted((entry for server in self.servers.values() for entry in server.history), key=lambda e: e.at)

    def kill(self, server: str) -> None:
        with self.clock.changed:
            self.clock.run_due()
            daemon.kill(self.servers[server])
            self.clock.changed.notify_all()

    def start(self, server: str) -> None:
        with self.clock.changed:
            self.clock.run_due()
            daemon.start(self.servers[server])
            self.clock.changed.notify_all()

    def rotate_certificate(self, server: Server) -> None:
        """Give it another one; whoever pinned the old one does not trust it any more."""
        server.identity = made_up(f"{server.name}/{self._random.random()}")
        server.note("fault", fault="certificate rotated")

    # What servers need from their world.

    def lay(self, wire: "Wire") -> str:
        """An address for a wire."""
        address = f"https://wire{len(self._by_address)}.sim:8443"
        self._by_address[address] = wire
        return address

    def at(self, address: str) -> Server | None:
        """The server that has this address itself."""
        found = self._by_address.get(address)
        return found if isinstance(found, Server) else None

    def reach(self, dialler: Server, address: str) -> "tuple[Server | None, Wire | None]":
        """The server that another one reaches there, and the wire on the way, if any."""
        found = self._by_address.get(address)
        if found is None:
            return None, None
        server, wire = (found, None) if isinstance(found, Server) else (found.server, found)
        is_open = server.is_up and (dialler.name, server.name) not in self.walls
        return (server if is_open else None), wire

    def keep(self, content: Instance | Volume) -> int:
        """The number of what a backup holds."""
        self._backed_up.append(content)
        return len(self._backed_up) - 1

    def kept(self, number: int) -> Instance | Volume:
        """What the backup of this number holds."""
        return self._backed_up[number]

    def new_pid(self) -> int:
        self._pids += 1
        return self._pids

    def new_id(self) -> str:
        text = f"{self._random.getrandbits(128):032x}"
        return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-8{text[17:20]}-{text[20:]}"

    def new_secret(self) -> str:
        return f"{self._random.getrandbits(256):064x}"

    def new_generation(self) -> str:
        return f"{self._random.getrandbits(48):012x}"

    def new_mac(self) -> str:
        digits = f"{self._random.getrandbits(24):06x}"
        return f"00:16:3e:{digits[:2]}:{digits[2:4]}:{digits[4:]}"
