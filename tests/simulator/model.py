"""What a simulated server has: instances, snapshots, profiles, pools and what is in them. Plain data.

The bytes of a file system are not simulated but named: ``Data`` says which machine they are of and which of
its versions. Two sides hold equal data if their tokens are equal.
"""

from dataclasses import dataclass, field, replace
from typing import Any

MIB = 1024**2

Config = dict[str, str]
Devices = dict[str, dict[str, str]]


@dataclass(frozen=True, slots=True)
class Data:
    """The content of a file system: which machine's, after which of its writes, how many bytes.

    ``torn`` is set if it is a mixture of several versions; such data are equal to nothing but themselves.
    """

    generation: str
    version: int
    size: int
    torn: str = ""

    @property
    def token(self) -> str:
        return f"{self.generation}:{self.version}{self.torn}"


@dataclass(frozen=True, slots=True)
class Guest:
    """How what is inside an instance behaves.

    ``stops_in`` seconds it obeys a request to shut down, None: never. While it runs it writes ``writes_per_second``
    times ``bytes_per_write``. ``deletes_files`` breaks a copy from a dir pool that lets it run.
    """

    starts_in: float = 0.20
    stops_in: float | None = 0.13
    writes_per_second: float = 0.0
    bytes_per_write: int = 64 * 1024
    deletes_files: bool = False


@dataclass(slots=True)
class Snapshot:
    """``data`` is None for a phantom: a record without data, which a killed target leaves.

    ``received`` says that it came to this server by a migration.
    """

    name: str
    created_at: float
    config: Config
    devices: Devices
    data: Data | None
    received: bool = False


@dataclass(slots=True)
class Instance:
    """One container. ``busy`` is the action that holds LXD's lock on it, ``""`` if none does.

    ``data`` is None while a first copy arrives, and in a wreck. ``pool`` is where its volume really is.
    """

    name: str
    project: str
    config: Config
    devices: Devices
    profiles: list[str]
    pool: str
    created_at: float
    guest: Guest = field(default_factory=Guest)
    data: Data | None = None
    architecture: str = "x86_64"
    description: str = ""
    ephemeral: bool = False
    status: str = "Stopped"
    location: str = "none"
    last_used_at: float | None = None
    busy: str = ""
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    transfer: Any = None
    #: Names of snapshots whose volume has a record and they have none: LXD 5.0.2 leaves that when a refresh breaks.
    orphans: set[str] = field(default_factory=set)
    #: The snapshot that is being made, and those whose making its daemon did not survive: records without a volume.
    snapshotting: str = ""
    phantoms: set[str] = field(default_factory=set)
    #: Whether its daemon died while it exchanged the volume for a refreshed one.
    has_lost_root: bool = False
    wrote_at: float = 0.0
    #: Where the fleet keeps what a backup holds; None for one that is being made, or never was finished.
    backups: dict[str, int | None] = field(default_factory=dict)

    @property
    def is_alive(self) -> bool:
        return self.status in ("Running", "Frozen")

    @property
    def is_uneven(self) -> bool:
        """Whether snapshots and their volumes do not match, of which LXD complains at every change."""
        return bool(self.orphans or self.phantoms)

    @property
    def is_unusable(self) -> bool:
        """A first copy that still arrives, or a wreck: a record without a file system."""
        return self.data is None

    def settle_writes(self, now: float) -> None:
        """Bring the data up to what a running guest has written until now."""
        if self.status == "Running" and self.data is not None and self.guest.writes_per_second:
            writes = int((now - self.wrote_at) * self.guest.writes_per_second)
            if writes:
                self.data = replace(self.data, version=self.data.version + writes)
                self.wrote_at += writes / self.guest.writes_per_second

    def write(self, times: int = 1, *, grow: int = 0) -> None:
        """The guest writes now."""
        if self.data is not None:
            self.data = replace(self.data, version=self.data.version + times, size=self.data.size + grow)

    def changed_since(self, earlier: Data | None) -> int:
        """Bytes that differ from earlier data of the same machine; all of them if there are none."""
        return difference(self.data, earlier, self.guest)


def difference(later: Data | None, earlier: Data | None, guest: Guest) -> int:
    """Bytes in which two versions differ."""
    if later is None:
        return 0
    if earlier is None or earlier.generation != later.generation:
        return later.size
    if earlier.torn or later.torn:
        return max(guest.bytes_per_write, abs(later.size - earlier.size))
    written = abs(later.version - earlier.version) * guest.bytes_per_write
    return min(later.size, written + abs(later.size - earlier.size))


@dataclass(slots=True)
class Profile:
    name: str
    project: str
    description: str = ""
    config: Config = field(default_factory=dict)
    devices: Devices = field(default_factory=dict)


@dataclass(slots=True)
class Volume:
    """A custom volume. ``data`` is None in a wreck. Who attaches it and runs writes into it as often as at home."""

    name: str
    project: str
    pool: str
    config: Config = field(default_factory=dict)
    description: str = ""
    content_type: str = "filesystem"
    data: Data | None = None
    snapshots: dict[str, Data] = field(default_factory=dict)
    guest: Guest = field(default_factory=Guest)
    transfer: Any = None
    snapshotting: Any = None  # the operation that made its newest snapshot
    #: Where the fleet keeps what a backup holds; None for one that is being made, or never was finished.
    backups: dict[str, int | None] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes in its pool."""
        return sum(each.size for each in (self.data, *self.snapshots.values()) if each)

    def write(self, times: int = 1, *, grow: int = 0) -> None:
        """Somebody writes now."""
        if self.data is not None:
            self.data = replace(self.data, version=self.data.version + times, size=self.data.size + grow)


@dataclass(slots=True)
class Pool:
    """``other`` counts bytes in it that belong to nothing that we know, for example of what was leaked."""

    name: str
    driver: str
    size: int
    other: int = 0
    volumes: dict[tuple[str, str], Volume] = field(default_factory=dict)
    #: Until when a failed transfer's tree is still being removed, by project and instance.
    leftovers: dict[tuple[str, str], float] = field(default_factory=dict)
    #: Volumes with a record, but without an instance.
    ownerless: set[tuple[str, str]] = field(default_factory=set)

    @property
    def sends_deltas(self) -> bool:
        return self.driver in ("btrfs", "zfs", "ceph")


@dataclass(frozen=True, slots=True)
class Image:
    """What an instance is made from."""

    alias: str
    size: int = MIB
    guest: Guest = field(default_factory=Guest)


#: The images of the lab, and one whose guest writes all the time.
IMAGES = {
    image.alias: image
    for image in (
        Image("tiny"),
        Image("stubborn", guest=Guest(stops_in=None)),
        Image("slow", guest=Guest(stops_in=3.0)),
        Image("busy", size=32 * MIB, guest=Guest(writes_per_second=20)),
    )
}
