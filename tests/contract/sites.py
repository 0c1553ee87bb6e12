"""A server as the contract sees it, real or simulated: herder's own client, and the ways to prepare and to hurt it."""

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from common.domain.instance import Devices
from common.lxd import relay
from common.lxd.client import LxdClient
from common.lxd.connect import connect
from common.lxd.migration import Offer, Transfer, receive_body, volume_receive_body
from common.lxd.remotes import Remote, Remotes
from tests.lab.pulls import MIB, Pull, done
from tests.lab.pulls import Site as LabSite
from tests.lab.wire import Wire as LabWire
from tests.simulator import Fleet, Server, Wire, daemon
from tests.simulator.adapter import client_of
from tests.simulator.relay import relay as simulated_relay
from tests.simulator.served import Served


class AnyWire(Protocol):
    """What ``tests.lab.wire.Wire`` is."""

    address: str

    @property
    def carried(self) -> int: ...
    def wait_held(self, seconds: float = 30) -> None: ...
    def release(self, *, hold_after: int | None = None) -> None: ...
    def cut(self) -> None: ...


class Site(Protocol):
    """``driver`` is that of the pool ``default``; ``certificate`` the server's, as PEM."""

    @property
    def client(self) -> LxdClient: ...
    @property
    def driver(self) -> str: ...
    @property
    def certificate(self) -> str: ...
    @property
    def address(self) -> str: ...
    def launch(
        self, name: str, *, image: str = "tiny", config: Mapping[str, str] | None = None, devices: Devices | None = None
    ) -> None:
        """Create and start a container."""

    def write(self, name: str, *, mib: int = 16) -> None:
        """Have the guest write that much new data."""

    def content(self, name: str) -> str:
        """What is in its file system, in one word: equal for equal data."""

    def fill(self, volume: str, *, mib: int = 4) -> None:
        """Put that much new data into a custom volume."""

    def content_of_volume(self, volume: str) -> str:
        """As ``content``."""

    def kill(self) -> None: ...
    def start(self) -> None: ...
    def wire(self, *, hold_after: int | None = None, push: bool = False) -> AbstractContextManager[AnyWire]:
        """A wire to this server, which is the source, or for a ``push`` the target."""

    def stranger(self) -> LxdClient:
        """A client that the server does not trust."""

    def wait_until(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        """Let time pass until it holds; AssertionError if it does not."""

    def carry(self, source: LxdClient, offer: Offer, target: LxdClient, awaited: Offer, limit: int) -> None:
        """Relay from here; a simulated server sends no bytes that herder's own relay could carry."""

    def clean(self) -> None: ...


@dataclass
class Simulated:
    """A simulated server behind either door."""

    fleet: Fleet
    server: Server
    client: LxdClient
    stranger_of: Callable[[], LxdClient]

    def carry(self, source: LxdClient, offer: Offer, target: LxdClient, awaited: Offer, limit: int) -> None:
        simulated_relay(self.fleet, source, offer, target, awaited, limit=limit)

    @property
    def driver(self) -> str:
        return self.server.pools["default"].driver

    @property
    def certificate(self) -> str:
        return self.server.identity.certificate

    @property
    def address(self) -> str:
        return self.server.address

    def launch(
        self, name: str, *, image: str = "tiny", config: Mapping[str, str] | None = None, devices: Devices | None = None
    ) -> None:
        body = {"name": name, "source": {"type": "image", "alias": image}, "config": config, "devices": devices}
        made = self.client.transport.request("POST", "/1.0/instances", json=body).operation
        assert made
        done(self.client, made)
        done(self.client, self.client.start(name))

    def write(self, name: str, *, mib: int = 16) -> None:
        with self.fleet.clock.lock:
            self.server.instance("default", name).write(grow=mib * MIB)

    def content(self, name: str) -> str:
        with self.fleet.clock.lock:
            data = self.server.instance("default", name).data
        assert data
        return data.token

    def fill(self, volume: str, *, mib: int = 4) -> None:
        with self.fleet.clock.lock:
            self.server.volume("default", "default", volume).write(grow=mib * MIB)

    def content_of_volume(self, volume: str) -> str:
        with self.fleet.clock.lock:
            data = self.server.volume("default", "default", volume).data
        return data.token if data else "nothing"

    def kill(self) -> None:
        self.fleet.kill(self.server.name)

    def start(self) -> None:
        self.fleet.start(self.server.name)

    def wire(self, *, hold_after: int | None = None, push: bool = False) -> Wire:
        del push
        return Wire(self.server, hold_after=hold_after)

    def stranger(self) -> LxdClient:
        return self.stranger_of()

    def wait_until(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        """By looking again and again, which is what lets virtual time pass."""
        end = self.fleet.clock.now() + seconds
        while not condition():
            assert self.fleet.clock.now() < end, "it did not come to pass"
            self.fleet.clock.wait(lambda: False, 0.005)

    def clean(self) -> None:
        with self.fleet.clock.lock:
            daemon.start(self.server)
            self.server.instances.clear()
            self.server.pools["default"].volumes.clear()
            for key in [key for key in self.server.profiles if key[1] != "default"]:
                del self.server.profiles[key]


@dataclass
class Real:
    """A server of the lab."""

    site: LabSite
    lxc_conf: Path

    def carry(self, source: LxdClient, offer: Offer, target: LxdClient, awaited: Offer, limit: int) -> None:
        relay.carry(source, offer, target, awaited, limit)

    @property
    def client(self) -> LxdClient:
        return self.site.client

    @property
    def driver(self) -> str:
        return self.site.server.driver

    @property
    def certificate(self) -> str:
        return self.site.server.certificate.read_text()

    @property
    def address(self) -> str:
        return self.site.server.address

    def launch(
        self, name: str, *, image: str = "tiny", config: Mapping[str, str] | None = None, devices: Devices | None = None
    ) -> None:
        self.site.server.launch(name, image=image, config=config, devices=devices)

    def write(self, name: str, *, mib: int = 16) -> None:
        self.site.write(name, mib=mib)

    def content(self, name: str) -> str:
        return hashlib.md5((self.site.root_of(name) / "root/data").read_bytes(), usedforsecurity=False).hexdigest()

    def fill(self, volume: str, *, mib: int = 4) -> None:
        self._data_of(volume).write_bytes(os.urandom(mib * MIB))

    def content_of_volume(self, volume: str) -> str:
        data = self._data_of(volume)
        return hashlib.md5(data.read_bytes(), usedforsecurity=False).hexdigest() if data.exists() else "nothing"

    def _data_of(self, volume: str) -> Path:
        return self.site.server.lxd_dir / f"storage-pools/default/custom/default_{volume}/data"

    def kill(self) -> None:
        self.site.server.kill()

    def start(self) -> None:
        self.site.server.start()

    def wire(self, *, hold_after: int | None = None, push: bool = False) -> LabWire:
        return LabWire(self.site.server, hold_after=hold_after, push=push)

    def stranger(self) -> LxdClient:
        remote = Remotes.load({"LXD_CONF": str(self.lxc_conf)}, Path("/nowhere")).get(self.site.server.name)
        return connect(_without_certificate(remote))

    def wait_until(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not come to pass"
            time.sleep(0.005)

    def clean(self) -> None:
        self.site.clean()
        for volume in self.client.volumes():
            self.client.delete_volume(volume)
        for profile in self.client.profiles():
            if profile.name != "default":
                self.client.delete_profile(profile.name)


def in_process(fleet: Fleet, name: str) -> Simulated:
    """A simulated server without a network."""
    return Simulated(
        fleet, fleet.servers[name], client_of(fleet, name), lambda: client_of(fleet, name, client="f" * 64)
    )


def over_https(served: Served, name: str) -> Simulated:
    """A simulated server behind HTTPS."""
    remote = Remotes.load({"LXD_CONF": str(served.lxc_conf)}, Path("/nowhere")).get(name)
    return Simulated(
        served.fleet, served.fleet.servers[name], connect(remote), lambda: connect(_without_certificate(remote))
    )


def _without_certificate(remote: Remote) -> Remote:
    return replace(remote, client_certificate=None, client_key=None)


def begin_pull(
    source: Site,
    target: Site,
    name: str,
    *,
    wire: AnyWire | None = None,
    config: Mapping[str, str] | None = None,
    devices: Devices | None = None,
    profiles: tuple[str, ...] | None = None,
    refresh: bool = False,
    allow_inconsistent: bool = False,
) -> Pull:
    """Begin to pull an instance under its own name."""
    instance = source.client.instance(name)
    offer = source.client.offer(name, allow_inconsistent=allow_inconsistent)
    body = receive_body(
        instance,
        name=name,
        config=config or {},
        devices=instance.devices if devices is None else devices,
        profiles=instance.profiles if profiles is None else profiles,
        source=Transfer(
            address=wire.address if wire else source.address,
            certificate=source.certificate,
            offer=offer,
            refresh=refresh,
            allow_inconsistent=allow_inconsistent,
        ),
    )
    return Pull(source.client, target.client, offer.operation, target.client.receive(body))


def await_push(
    source: Site, target: Site, name: str, *, config: Mapping[str, str] | None = None, refresh: bool = False
) -> Offer:
    """Have a target wait for an instance under its own name."""
    instance = source.client.instance(name)
    body = receive_body(
        instance,
        name=name,
        config=config or {},
        devices=instance.devices,
        profiles=instance.profiles,
        source=Transfer(refresh=refresh),
    )
    return target.client.await_push(body)


def begin_push(
    source: Site,
    target: Site,
    name: str,
    *,
    wire: AnyWire | None = None,
    config: Mapping[str, str] | None = None,
    refresh: bool = False,
) -> Pull:
    """Begin to push an instance under its own name."""
    awaited = await_push(source, target, name, config=config, refresh=refresh)
    to = Transfer(offer=awaited, address=wire.address if wire else target.address, certificate=target.certificate)
    return Pull(source.client, target.client, source.client.push(name, to), awaited.operation)


def begin_relay(
    source: Site,
    target: Site,
    name: str,
    *,
    config: Mapping[str, str] | None = None,
    refresh: bool = False,
    limit: int = 0,
) -> Pull:
    """Begin to relay an instance under its own name, at most so many bytes per second."""
    awaited = await_push(source, target, name, config=config, refresh=refresh)
    offer = source.client.offer(name)
    source.carry(source.client, offer, target.client, awaited, limit)
    return Pull(source.client, target.client, offer.operation, awaited.operation)


def begin_volume(
    source: Site,
    target: Site,
    volume: str,
    *,
    mode: str = "pull",
    wire: AnyWire | None = None,
    config: Mapping[str, str] | None = None,
    refresh: bool = False,
    name: str = "",
) -> Pull:
    """Begin to send a custom volume, under its own name unless it gets another one."""
    seen = source.client.volume("default", volume)
    if mode == "pull":
        offer = source.client.offer_volume("default", volume)
        address = wire.address if wire else source.address
        transfer = Transfer(address=address, certificate=source.certificate, offer=offer, refresh=refresh)
        body = volume_receive_body(seen, config=config or {}, name=name, source=transfer)
        return Pull(source.client, target.client, offer.operation, target.client.receive_volume("default", body))
    body = volume_receive_body(seen, config=config or {}, name=name, source=Transfer(refresh=refresh))
    awaited = target.client.await_volume("default", body)
    if mode == "push":
        address = wire.address if wire else target.address
        to = Transfer(offer=awaited, address=address, certificate=target.certificate)
        return Pull(source.client, target.client, source.client.push_volume("default", volume, to), awaited.operation)
    offer = source.client.offer_volume("default", volume)
    source.carry(source.client, offer, target.client, awaited, 0)
    return Pull(source.client, target.client, offer.operation, awaited.operation)
