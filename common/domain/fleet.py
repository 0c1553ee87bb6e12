"""Servers as seen at one moment: what a plan is made from, and what preflight checks against."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from common.domain.instance import Config, Devices, Instance


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


@dataclass(frozen=True, kw_only=True)
class Server:
    """One server as a source or target. The mappings of a project's things are keyed by project, then by name."""

    remote: str
    info: ServerInfo
    projects: tuple[str, ...] = ("default",)
    instances: tuple[Instance, ...] = ()
    pools: Mapping[str, Pool] = field(default_factory=dict)
    profiles: Mapping[str, Mapping[str, Profile]] = field(default_factory=dict)
    networks: Mapping[str, frozenset[str]] = field(default_factory=dict)
    #: ``(pool, project, volume)`` of every custom volume.
    volumes: frozenset[tuple[str, str, str]] = frozenset()
    #: ``(key, value)`` of instances' config that it would not take, and why in its own words, as far as it was asked.
    refused_config: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def instance(self, project: str, name: str) -> Instance | None:
        """The instance of this name, or None."""
        return next((i for i in self.instances if i.project == project and i.name == name), None)


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Every server that a request names, stamped with the moment it was seen.

    ``matching`` are ``(project, name)`` of the source's instances that the request's filter lets through; None if it
    has none.
    """

    seen_at: datetime
    servers: Mapping[str, Server]
    matching: frozenset[tuple[str, str]] | None = None
