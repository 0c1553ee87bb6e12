"""What was asked (Request), what was decided (Plan), and the moves in it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from common.domain.drill import DrillOrder
from common.domain.failover import FailoverOrder
from common.domain.fleet import place
from common.domain.generation import BackupOrder, origin
from common.domain.instance import Config, Devices, Instance
from common.domain.volume import AttachedVolume


class Method(StrEnum):
    """How an instance or a custom volume moves, or is copied."""

    WARM = "warm"  # passes while it runs, then a short stop
    COLD = "cold"  # one pass of the stopped instance
    STATEFUL = "stateful"  # cold, but the stopped virtual machine has kept its memory on its disk, and goes on with it
    LIVE = "live"  # it would run on while it moves; refused, with what stands in its way
    COPY = "copy"  # another, independent instance; the source goes on
    REFRESH = "refresh"  # a copy that is there is made equal to its source, which goes on
    EXPORT = "export"  # a backup file in an archive; the source goes on
    IMPORT = "import"  # an instance made from a backup file in an archive
    VOLUME_MOVE = "volume-move"  # a custom volume by itself
    VOLUME_COPY = "volume-copy"
    VOLUME_REFRESH = "volume-refresh"  # a volume that is there is replaced by a copy of its source
    BACKUP = "backup"  # a generation on the target, made of a staging copy that every run refreshes; the source goes on
    ARCHIVE = "archive"  # a generation in an archive: a verified export; the source goes on
    DRILL = "drill"  # a clone of a generation is started beside it, looked at, and removed
    FAILOVER = "failover"  # an instance is made of a generation beside it, and takes the place of its source

    @property
    def is_copy(self) -> bool:
        """Whether the source stays the instance that it is."""
        return self in _COPIES

    @property
    def is_of_volume(self) -> bool:
        """Whether a custom volume goes by itself, and no instance."""
        return self in (Method.VOLUME_MOVE, Method.VOLUME_COPY, Method.VOLUME_REFRESH)

    @property
    def stops_first(self) -> bool:
        """Whether its only pass is made after the source was stopped."""
        return self in (Method.COLD, Method.STATEFUL)


_COPIES = frozenset(
    {
        *(Method.COPY, Method.REFRESH, Method.EXPORT, Method.IMPORT, Method.BACKUP, Method.ARCHIVE, Method.DRILL),
        Method.FAILOVER,
        *(Method.VOLUME_COPY, Method.VOLUME_REFRESH),
    }
)


_EXPORTS = frozenset({Method.EXPORT, Method.ARCHIVE})


class Compression(StrEnum):
    """How a server compresses a backup; the words are LXD's."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"
    XZ = "xz"
    BZIP2 = "bzip2"
    LZMA = "lzma"


class Retire(StrEnum):
    """What happens to the source after the target has been verified."""

    STOP = "stop"  # kept, stopped, unable to start
    DELETE = "delete"


class AfterGrace(StrEnum):
    """What to do with a guest that does not shut down within its grace."""

    FORCE = "force"  # as `lxc cluster evacuate` does
    GIVE_BACK = "give-back"  # leave it running on the source and park the job


class Mode(StrEnum):
    """Who dials whom for the data."""

    AUTO = "auto"  # pull; if the target cannot reach the source, push; if neither reaches the other one, relay
    PULL = "pull"
    PUSH = "push"
    RELAY = "relay"  # a worker dials both and carries the bytes


@dataclass(frozen=True, kw_only=True)
class Health:
    """A command that must end with exit code 0 inside the moved instance before the source is retired."""

    command: tuple[str, ...]
    timeout: timedelta = timedelta(seconds=60)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How each move of a plan is carried out."""

    method: Method | None = None  # None: cold if it is stopped; warm if it runs, or the best for a virtual machine
    downtime: timedelta = timedelta(seconds=2)  # budget: cut over when the last pass took no longer
    grace: timedelta | None = None  # None: the instance's boot.host_shutdown_timeout, else 30 s
    after_grace: AfterGrace = AfterGrace.FORCE
    retire: Retire = Retire.STOP
    mode: Mode = Mode.AUTO
    stall: timedelta = timedelta(minutes=2)
    rate: int = 0  # bytes per second that a transfer may take; 0: as fast as it goes. Only a relay can be capped
    health: Health | None = None
    optimized: bool = False  # an export in its pool's own format, which only a pool of the same driver takes
    compression: Compression = Compression.NONE  # of an export


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Slots: how many jobs may load one server at the same time."""

    per_source: int = 2
    per_target: int = 2
    cutovers: int = 4


class Thing(StrEnum):
    """What instances need on their server, and can be made there."""

    PROJECT = "project"
    PROFILE = "profile"
    NETWORK = "network"
    POOL = "pool"


@dataclass(frozen=True, kw_only=True)
class Creation:
    """What is made on the target before an instance comes: ``driver`` is that of a pool, or the type of a network."""

    thing: Thing
    name: str
    driver: str = ""
    description: str = ""
    config: Config = field(default_factory=dict)
    devices: Devices = field(default_factory=dict)  # of a profile


@dataclass(frozen=True, kw_only=True)
class NameMap:
    """What has another name on the target: by kind, its name on the source and that on the target."""

    profiles: Mapping[str, str] = field(default_factory=dict)
    networks: Mapping[str, str] = field(default_factory=dict)
    pools: Mapping[str, str] = field(default_factory=dict)
    projects: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """What shall differ on the target; the words are those of `lxc move`. They come before what ``map`` says."""

    config: Config = field(default_factory=dict)
    devices: Devices = field(default_factory=dict)
    profiles: tuple[str, ...] | None = None  # None: those of the source
    storage: str = ""
    instance_only: bool = False
    allow_inconsistent: bool = False
    ephemeral: bool = False  # of a copy; a moved instance stays what it is
    map: NameMap = field(default_factory=NameMap)
    create: tuple[Thing, ...] = ()  # what is made on the target, from the source's definition, if it is not there

    def over(self, config: Config) -> dict[str, str]:
        """A config with what shall differ; a key that shall be ``""`` is not there, as LXD understands it."""
        changed = {**config, **self.config}
        return {key: value for key, value in changed.items() if value or key not in self.config}

    def with_own(self, own: "Overrides") -> "Overrides":
        """These, and before them what one instance has for itself; what is mapped and created stays that of all."""
        devices = {
            # A mask stands alone.
            name: device if device.get("type") == "none" else {**self.devices.get(name, {}), **device}
            for name, device in own.devices.items()
        }
        return replace(
            self,
            config={**self.config, **own.config},
            devices={**self.devices, **devices},
            profiles=self.profiles if own.profiles is None else own.profiles,
            storage=own.storage or self.storage,
            instance_only=own.instance_only or self.instance_only,
            allow_inconsistent=own.allow_inconsistent or self.allow_inconsistent,
            ephemeral=own.ephemeral or self.ephemeral,
        )


@dataclass(frozen=True, kw_only=True)
class Own:
    """What one instance shall have for itself: a new ``name``, and overrides before those of the request.

    ``volumes`` come along that it does not attach: those beside a generation.
    """

    name: str = ""
    overrides: Overrides = field(default_factory=Overrides)
    volumes: tuple[AttachedVolume, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which instances of one source; empty means all of the project, or of ``all_projects``.

    ``filter`` is in LXD's own filter language, and the source evaluates it. ``members`` are those of a cluster whose
    instances leave in an evacuation; ``home`` is the one to which those that have left it come back. Of custom volumes
    ``instances`` are their names as ``POOL/NAME``, and ``pools`` leaves all others out.
    """

    source: str
    project: str = "default"
    instances: tuple[str, ...] = ()
    match: Mapping[str, str] = field(default_factory=dict)  # config key -> shell-style pattern
    filter: str = ""
    all_projects: bool = False
    members: tuple[str, ...] = ()
    home: str = ""
    pools: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Request:
    """What an operator asked for.

    ``members``, also ``@GROUP``, are those of a target that is a cluster; without targets those of the source's own
    cluster, within which the instances change their member.
    ``archive`` is where exports go to or imports come from; it stands in for the target or for the source.
    """

    name: str
    select: Selection
    targets: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    rename: str = ""  # the new name, if exactly one instance is selected
    target_project: str = ""
    policy: Policy = field(default_factory=Policy)
    limits: Limits = field(default_factory=Limits)
    overrides: Overrides = field(default_factory=Overrides)
    each: Mapping[str, Own] = field(default_factory=dict)  # by the instance's name on the source
    archive: str = ""
    backup: BackupOrder | None = None
    goes_home: bool = False  # what is selected was failed over, and what it left at home makes way for it

    def overrides_of(self, instance: str) -> Overrides:
        """What shall differ for the instance of this name."""
        return self.overrides.with_own(self.each.get(instance, Own()).overrides)

    def project_on_target(self, project: str) -> str:
        """Where an instance of this project goes."""
        return self.target_project or self.overrides.map.projects.get(project, project)


@dataclass(frozen=True, kw_only=True)
class Move:
    """One instance's way from its source to its target, as decided.

    ``identity`` tells the planned instance from another of the same name: its ``volatile.uuid``, or where the server
    has none its creation time. Of a side that is a cluster the member is named too. Within a cluster source and target
    are the same server, and the members tell them apart.
    ``volumes`` go before it, in the same job. Of a volume that goes by itself ``instance`` and ``name`` are
    ``POOL/NAME``, and it is the only one of ``volumes``.
    Of an export the target, and of an import the source, is no server but an archive; ``file`` is the backup in it, and
    the identity of an import is the checksum of that.
    Of a backup ``name`` is that of the staging copy, and ``volumes`` are those that are backed up with it; of one that
    goes into an archive ``name`` is that of the instance.
    Of a drill ``instance`` is the generation and ``name`` its clone,
    on the same server; so it is with the instance that a failover makes.
    """

    instance: str
    source: str
    target: str
    name: str
    project: str = "default"
    target_project: str = "default"
    type: str = "container"
    identity: str = ""
    method: Method = Method.WARM
    pool: str = ""
    reason: str = ""
    policy: Policy = field(default_factory=Policy)
    overrides: Overrides = field(default_factory=Overrides)
    source_member: str = ""
    target_member: str = ""
    creations: tuple[Creation, ...] = ()  # in the target's project, in this order
    volumes: tuple[AttachedVolume, ...] = ()
    file: str = ""
    backup: BackupOrder | None = None
    drill: DrillOrder | None = None
    failover: FailoverOrder | None = None
    goes_home: bool = False

    @property
    def is_copy(self) -> bool:
        """Whether the source stays the instance that it is."""
        return self.method.is_copy

    @property
    def is_refresh(self) -> bool:
        """Whether the copy is there already, and has a config of its own."""
        return self.method is Method.REFRESH

    @property
    def is_of_volume(self) -> bool:
        """Whether a custom volume goes by itself, and no instance."""
        return self.method.is_of_volume

    @property
    def is_local(self) -> bool:
        """Whether it is a copy that stays on its server, as what is made there of a backup."""
        return self.method in (Method.COPY, Method.DRILL, Method.FAILOVER) and self.source == self.target

    @property
    def takes_place_of(self) -> FailoverOrder:
        """What a failover knows of the instance at home."""
        assert self.failover  # noqa: S101 - every move of Method.FAILOVER has one
        return self.failover

    @property
    def origin(self) -> str:
        """What the marks of its backups name: ``REMOTE:PROJECT/INSTANCE``, of a drill its generation's source."""
        return self.drill.source if self.drill else origin(self.source, self.project, self.instance)

    @property
    def order(self) -> BackupOrder:
        """What a backup knows of its run."""
        assert self.backup  # noqa: S101 - every move of Method.BACKUP and of Method.ARCHIVE has one
        return self.backup

    @property
    def generation(self) -> str:
        """The name of the generation that a backup makes."""
        return self.order.generation_of(self.origin)

    @property
    def exports_clone(self) -> bool:
        """Whether what it exports is a clone of its run's snapshot, because that was made between hooks."""
        return self.method is Method.ARCHIVE and self.backup is not None and bool(self.backup.hook.lines)

    @property
    def exported(self) -> str:
        """The name, on the source, of that of which the backup file is made."""
        return self.order.clone_of(self.origin, self.origin, self.target) if self.exports_clone else self.instance

    @property
    def archive(self) -> str:
        """The archive that it exports to or imports from, ``""`` if both sides are servers."""
        return self.source if self.method is Method.IMPORT else self.target if self.method in _EXPORTS else ""

    @property
    def servers(self) -> tuple[str, ...]:
        """The remotes that it needs, the source first."""
        return tuple(dict.fromkeys(each for each in (self.source, self.target) if each != self.archive))

    @property
    def is_within_cluster(self) -> bool:
        """Whether it only changes its member."""
        return bool(self.target_member) and self.source == self.target

    @property
    def is_of_cluster(self) -> bool:
        """Whether one of its sides is a member of a cluster."""
        return bool(self.source_member or self.target_member)

    @property
    def source_place(self) -> str:
        """The source, or its member: ``s1``, ``cluster/c1``."""
        return place(self.source, self.source_member)

    @property
    def target_place(self) -> str:
        """The target, or its member."""
        return place(self.target, self.target_member)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that stands in the way of a move, and what to do about it."""

    code: str
    message: str
    hint: str
    is_refusal: bool = True


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """An instance that stays where it is, and why."""

    instance: str
    source: str
    project: str = "default"
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was decided: who goes where and why, who stays and why."""

    id: str
    name: str
    created_at: datetime
    request: Request
    moves: tuple[Move, ...]
    refusals: tuple[Refusal, ...] = ()
    warnings: tuple[str, ...] = ()
    fingerprint: str = ""
    #: The numbers of its moves, if it was rebuilt from servers that knew only some of them.
    numbers: tuple[int, ...] = ()

    def job_id(self, number: int) -> str:
        """The name of the job of the move at ``number``; everything created on servers derives from it."""
        return f"{self.id}-{(self.numbers[number] if self.numbers else number) + 1}"


def identity_of(instance: Instance) -> str:
    """What tells this instance from a later one of the same name."""
    return instance.config.get("volatile.uuid") or instance.created_at.isoformat()


def fingerprint(instances: Mapping[tuple[str, str], Instance], moves: tuple[Move, ...]) -> str:
    """SHA-256 over what the plan relied on for each moved instance: identity, run state, profiles, devices.

    ``instances`` is keyed by project and name, as seen on the sources.
    """
    facts = [
        [m.source, m.project, m.instance, m.target, m.name, _relied_on(instances.get((m.project, m.instance)))]
        for m in moves
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _relied_on(instance: Instance | None) -> object:
    if instance is None:
        return None
    devices = {name: dict(device) for name, device in instance.own_devices.items()}
    return [identity_of(instance), instance.is_running, list(instance.profiles), devices]
