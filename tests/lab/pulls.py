"""Pulls between servers of the lab through our own client, and waiting for what they begin."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from common.domain.instance import Devices
from common.domain.operation import Operation
from common.lxd.client import LxdClient
from common.lxd.connect import connect
from common.lxd.migration import Offer, Transfer, offer_body, receive_body
from common.lxd.remotes import Remotes
from tests.lab.lab import Lab
from tests.lab.server import LabServer

MIB = 1024 * 1024


@dataclass(frozen=True)
class Site:
    """A server of the lab, and our client of it over HTTPS; for every member of a cluster that is a client of `c1`."""

    server: LabServer
    client: LxdClient

    @classmethod
    def of(cls, lab: Lab, name: str) -> "Site":
        remotes = Remotes.load({"LXD_CONF": str(lab.lxc_conf)}, Path("/nowhere"))
        server = lab.servers[name]
        return cls(server, connect(remotes.get(server.cluster or name)))

    def restart(self) -> None:
        """SIGKILL the daemon and start it again."""
        self.server.kill()
        self.server.start()

    def clean(self) -> None:
        """Bring the daemon back, whatever was done to it, and delete everything."""
        self.server.thaw()
        self.server.start()
        self.server.delete_all()

    def do(self, name: str, *command: str) -> None:
        """Run a command in a guest; it must succeed."""
        ended = finished(self.client, self.client.execute(name, command))
        assert ended.metadata.get("return") == 0, f"{command}: {ended}"

    def write(self, name: str, file: str = "data", *, mib: int = 24) -> None:
        """Fill a file in a guest with random bytes."""
        self.do(name, "dd", "if=/dev/urandom", f"of=/root/{file}", "bs=1M", f"count={mib}")
        self.do(name, "sync")

    def snapshot(self, name: str, snapshot: str) -> None:
        done(self.client, self.client.create_snapshot(name, snapshot))

    def root_of(self, name: str, *, snapshot: str = "") -> Path:
        """Where a container's or a snapshot's root directory lies on this machine."""
        kind = "containers-snapshots" if snapshot else "containers"
        return self.server.lxd_dir / "storage-pools" / "default" / kind / name / snapshot / "rootfs"


def cleaned(lab: Lab, name: str) -> Iterator[Site]:
    """A server of the lab, empty before and after: what a fixture yields from."""
    there = Site.of(lab, name)
    there.clean()
    yield there
    there.clean()


@dataclass(frozen=True)
class Pull:
    """A transfer that has begun: the operation on the source and that on the target."""

    source: LxdClient
    target: LxdClient
    offered: str
    received: str

    def ended(self) -> tuple[Operation, Operation]:
        """How it ended on the source and on the target; both are awaited at once, for they are forgotten after 5 s."""
        with ThreadPoolExecutor() as pool:
            received = pool.submit(finished, self.target, self.received)
            return finished(self.source, self.offered), received.result()

    def succeed(self) -> None:
        """Wait for success on both; a member that was busy may tell of one when it has forgotten the other."""
        with ThreadPoolExecutor() as pool:
            received = pool.submit(self.target.wait, self.received, timeout_seconds=60)
            both = self.source.wait(self.offered, timeout_seconds=60), received.result()
        told = [(each.is_finished, each.error) for each in both if each is not None]
        assert told, "forgotten before we looked"
        assert set(told) == {(True, "")}


def pull(
    source: Site,
    target: Site,
    name: str,
    *,
    address: str | None = None,
    config: Mapping[str, str] | None = None,
    devices: Devices | None = None,
    profiles: Sequence[str] | None = None,
    refresh: bool = False,
    instance_only: bool = False,
    allow_inconsistent: bool = False,
    live: Collection[str] = (),
    stateful: bool = False,
) -> Pull:
    """Begin to pull an instance under its own name, with its own profiles and devices, if not said otherwise.

    ``address`` is where the target shall dial the source, for example that of a ``Wire``. ``live``: as the products'
    own clients do it, and these are the streams that the source offers. ``stateful``: its memory is among its files.
    """
    instance = source.client.instance(name)
    offer = (
        _live_offer(source, name, live)
        if live
        else source.client.offer(name, instance_only=instance_only, allow_inconsistent=allow_inconsistent)
    )
    transfer = Transfer(
        address=address or source.server.address,
        certificate=source.server.certificate.read_text(),
        offer=offer,
        refresh=refresh,
        instance_only=instance_only,
        allow_inconsistent=allow_inconsistent,
    )
    body = receive_body(
        instance,
        name=name,
        config=config or {},
        devices=instance.devices if devices is None else devices,
        profiles=instance.profiles if profiles is None else profiles,
        source=transfer,
    )
    if live:
        body = {**body, "source": {**body["source"], "live": True}}
    if stateful:
        body = {**body, "stateful": True}
    return Pull(source.client, target.client, offer.operation, target.client.receive(body))


def without_last_state(there: Site, name: str) -> dict[str, str]:
    """The config of an instance but for what tells of its last run."""
    config = there.client.instance(name).config
    return {key: value for key, value in config.items() if not key.startswith("volatile.last_state.")}


def _live_offer(source: Site, name: str, streams: Collection[str]) -> Offer:
    body = {**offer_body(name, instance_only=False, allow_inconsistent=False), "live": True}
    reply = source.client.transport.request("POST", f"/1.0/instances/{name}", json=body)
    assert reply.operation
    secrets = reply.metadata["metadata"]
    assert secrets.keys() == set(streams), "there is a stream for its memory"
    return Offer(operation=reply.operation, secrets=secrets)


def booted(client: LxdClient, name: str) -> None:
    """Wait until the guest's init listens to signals: one that came earlier would be lost."""
    done(client, client.execute(name, ["sh", "-c", "until pidof sleep; do sleep 0.02; done"]))


def finished(client: LxdClient, operation: str) -> Operation:
    """How an operation ended."""
    seen = client.wait(operation, timeout_seconds=60)
    assert seen is not None, "forgotten before we looked"
    assert seen.is_finished, f"still running after 60 s: {seen}"
    return seen


def done(client: LxdClient, operation: str) -> None:
    """Wait for success."""
    assert finished(client, operation).error == ""
