"""A fleet behind HTTPS on this machine, with a directory that ``lxc`` and ``herder`` take for their configuration."""

import contextlib
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from common.domain.units import parse_size
from common.lxd.tls import fingerprint
from common.lxd.trust import client_certificate
from tests.simulator.certificates import real
from tests.simulator.clock import ScaledClock
from tests.simulator.fleet import Fleet
from tests.simulator.https import Door
from tests.simulator.model import Guest


@dataclass(frozen=True)
class Served:
    """``lxc_conf`` is the LXD_CONF of a client that every server trusts."""

    fleet: Fleet
    lxc_conf: Path
    doors: tuple[Door, ...]
    reserved: contextlib.ExitStack

    @classmethod
    def begin(cls, servers: Mapping[str, Mapping[str, Any]], lxc_conf: Path, *, scale: float = 1.0) -> "Served":
        """Make the servers, each with the options of ``Fleet.add``, and listen."""
        fleet = Fleet(ScaledClock(scale))
        certificate, _ = client_certificate(lxc_conf)
        pem = certificate.read_text()
        doors = []
        reserved = contextlib.ExitStack()
        for name, options in servers.items():
            port = reserved.enter_context(_reserved_port()).getsockname()[1]
            server = fleet.add(name, address=f"https://127.0.0.1:{port}", identity=real(name), **options)
            server.trusted = {fingerprint(pem): None}
            doors.append(Door(fleet, server, pem))
        for door in doors:
            door.open()
        _configure(fleet, lxc_conf)
        return cls(fleet, lxc_conf, tuple(doors), reserved)

    @classmethod
    def from_file(cls, path: Path, lxc_conf: Path) -> "Served":
        """What a fleet file describes; see docs/how-to/use-the-simulator.md. Raises ValueError, KeyError."""
        told = yaml.safe_load(path.read_text())
        servers = {name: _sizes(options or {}) for name, options in told["servers"].items()}
        made = cls.begin(servers, lxc_conf, scale=float(told.get("scale", 1)))
        for group in told.get("instances") or ():
            made.launch(**_sizes(group))
        return made

    def launch(self, *, server: str, name: str, count: int = 1, **options: Any) -> None:
        """Running instances: one of this name, or ``count`` of them with numbers. ``writes`` is per second."""
        writes = float(options.pop("writes", 0))
        for number in range(1, count + 1):
            instance = self.fleet.launch(server, name if count == 1 else f"{name}{number:02}", **options)
            if writes:
                instance.guest = Guest(writes_per_second=writes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening."""
        for door in self.doors:
            door.close()
        self.reserved.close()


def _sizes(options: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes may be written with their units."""
    return {
        key: parse_size(value) if key in ("size", "bandwidth") and isinstance(value, str) else value
        for key, value in options.items()
    }


def _reserved_port() -> socket.socket:
    """It hears nothing; it keeps the port from everybody else while the daemon is dead or not yet born."""
    reservation = socket.socket()
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reservation.bind(("127.0.0.1", 0))
    return reservation


def _configure(fleet: Fleet, directory: Path) -> None:
    """Write what ``lxc`` would have written."""
    pins = directory / "servercerts"
    pins.mkdir(parents=True, exist_ok=True)
    remotes: dict[str, Any] = {"local": {"addr": "unix://", "public": False}}
    for name, server in fleet.servers.items():
        (pins / f"{name}.crt").write_text(server.identity.certificate)
        remotes[name] = {
            "addr": server.address,
            "auth_type": "tls",
            "project": "default",
            "protocol": "lxd",
            "public": False,
        }
    config = {"default-remote": next(iter(fleet.servers)), "remotes": remotes, "aliases": {}}
    (directory / "config.yml").write_text(yaml.safe_dump(config))
