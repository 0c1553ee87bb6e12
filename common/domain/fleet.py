"""Servers as seen at one moment: what a plan is made from, and what preflight checks against."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from common.domain.instance import Config, Devices, Instance
from common.domain.volume import Volumes


@dataclass(frozen=True, kw_only=True)
class Pool:
    """One storage pool; ``total`` and ``used`` in bytes, 0 if the server does not tell."""

    name: str
    driver: str
    total: int = 0
    used: int = 0

    @property
    def free(self) -> int:
        return max(0, self.total - self.used)


@dataclass(frozen=True, kw_only=True)
class Room:
    """Where a server keeps its backup files, in words, and the bytes that are free there."""

    place: str
    free: int


#: Drivers that can send what changed between two snapshots; all others compare every file with rsync.
_SENDS_DELTAS = frozenset({"btrfs", "ceph", "zfs"})


def sends_deltas(source_driver: str, target_driver: str) -> bool:
    """Whether a refresh between pools of these drivers is a delta between snapshots."""
    return source_driver == target_driver and source_driver in _SENDS_DELTAS


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One profile of one project; ``etag`` is empty if it comes from a listing."""

    name: str
    description: str = ""
    config: Config = field(default_factory=dict)
    devices: Devices = field(default_factory=dict)
    etag: str = ""


def place(remote: str, member: str = "") -> str:
    """How a server, or a member of it, is called."""
    return f"{remote}/{member}" if member else remote


@dataclass(frozen=True, kw_only=True)
class Member:
    """One member of a cluster. ``status`` is LXD's word: Online, Offline, Evacuated; ``message`` says why."""

    name: str
    address: str
    status: str
    message: str = ""
    groups: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    config: Config = field(default_factory=dict)
    failure_domain: str = ""
    description: str = ""
    etag: str = ""

    @property
    def is_evacuated(self) -> bool:
        return self.status == "Evacuated"

    @property
    def is_online(self) -> bool:
        return self.status == "Online"

    @property
    def is_manual(self) -> bool:
        """Whether only what names it is placed on it."""
        return self.config.get("scheduler.instance") == "manual"

    @property
    def is_of_groups(self) -> bool:
        """Whether only what names it or one of its groups is placed on it."""
        return self.config.get("scheduler.instance") == "group"


@dataclass(frozen=True, kw_only=True)
class ServerInfo:
    """What ``GET /1.0`` tells. ``pid`` changes when the daemon restarts, and then all operations are forgotten."""

    name: str
    product: str
    version: str
    pid: int
    trusted: bool
    extensions: frozenset[str]
    architectures: tuple[str, ...]
    addresses: tuple[str, ...]
    certificate: str
    clustered: bool = False
    #: The version of QEMU, ``""`` if it cannot run virtual machines.
    qemu: str = ""


@dataclass(frozen=True, kw_only=True)
class Definition:
    """How a pool, a network or a project was made; ``driver`` is a network's type, and a project has none.

    It is not ``is_made`` while that goes on.
    """

    driver: str
    description: str = ""
    config: Config = field(default_factory=dict)
    is_made: bool = True


@dataclass(frozen=True, kw_only=True)
class Processor:
    """What runs virtual machines; ``flags`` are empty if the server does not tell them."""

    model: str
    flags: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Server:
    """One server, or one ``member`` of a cluster, as a source or target.

    The mappings of a project's things are keyed by project, then by name; ``members`` by name.
    """

    remote: str
    info: ServerInfo
    member: str = ""
    members: Mapping[str, Member] = field(default_factory=dict)
    projects: tuple[str, ...] = ("default",)
    instances: tuple[Instance, ...] = ()
    pools: Mapping[str, Pool] = field(default_factory=dict)
    profiles: Mapping[str, Mapping[str, Profile]] = field(default_factory=dict)
    networks: Mapping[str, frozenset[str]] = field(default_factory=dict)
    #: Custom volumes by ``(pool, project, name)``.
    volumes: Volumes = field(default_factory=dict)
    #: ``(key, value)`` of instances' config that it would not take, and why in its own words, as far as it was asked.
    refused_config: Mapping[tuple[str, str], str] = field(default_factory=dict)
    #: ``(project, network)`` of every OVN network, and the processor: asked only where a virtual machine shall move.
    ovn_networks: frozenset[tuple[str, str]] = frozenset()
    processor: Processor | None = None
    #: ``(thing, project, name)`` of its managed networks, and of its pools and projects with an empty project: asked
    #: only where something like them shall be made.
    definitions: Mapping[tuple[str, str, str], Definition] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """What it is called."""
        return place(self.remote, self.member)

    def instance(self, project: str, name: str) -> Instance | None:
        """The instance of this name, or None."""
        return next((i for i in self.instances if i.project == project and i.name == name), None)


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Every server that a request names, by its place, stamped with the moment it was seen.

    ``matching`` are ``(project, name)`` of the source's instances that the request's filter lets through; None if it
    has none.
    """

    seen_at: datetime
    servers: Mapping[str, Server]
    matching: frozenset[tuple[str, str]] | None = None
