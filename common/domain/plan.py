"""What was asked (Request), what was decided (Plan), and the moves in it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from common.domain.instance import Config, Devices, Instance


class Method(StrEnum):
    """How an instance moves, or is copied."""

    WARM = "warm"  # passes while it runs, then a short stop
    COLD = "cold"  # one pass of the stopped instance
    COPY = "copy"  # another, independent instance; the source goes on

    @property
    def is_copy(self) -> bool:
        """Whether the source stays the instance that it is."""
        return self is Method.COPY


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

    AUTO = "auto"  # pull; if the target cannot reach the source, push
    PULL = "pull"
    PUSH = "push"
    RELAY = "relay"


@dataclass(frozen=True, kw_only=True)
class Health:
    """A command that must end with exit code 0 inside the moved instance before the source is retired."""

    command: tuple[str, ...]
    timeout: timedelta = timedelta(seconds=60)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How each move of a plan is carried out."""

    method: Method | None = None  # None: warm if it runs, cold if it is stopped
    downtime: timedelta = timedelta(seconds=2)  # budget: cut over when the last pass took no longer
    grace: timedelta | None = None  # None: the instance's boot.host_shutdown_timeout, else 30 s
    after_grace: AfterGrace = AfterGrace.FORCE
    retire: Retire = Retire.STOP
    mode: Mode = Mode.AUTO
    stall: timedelta = timedelta(minutes=2)
    health: Health | None = None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Slots: how many jobs may load one server at the same time."""

    per_source: int = 2
    per_target: int = 2
    cutovers: int = 4


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


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which instances of one source; empty means all of the project, or of ``all_projects``.

    ``filter`` is in LXD's own filter language, and the source evaluates it.
    """

    source: str
    project: str = "default"
    instances: tuple[str, ...] = ()
    match: Mapping[str, str] = field(default_factory=dict)  # config key -> shell-style pattern
    filter: str = ""
    all_projects: bool = False


@dataclass(frozen=True, kw_only=True)
class Request:
    """What an operator asked for."""

    name: str
    select: Selection
    targets: tuple[str, ...]
    rename: str = ""  # the new name, if exactly one instance is selected
    target_project: str = ""
    policy: Policy = field(default_factory=Policy)
    limits: Limits = field(default_factory=Limits)
    overrides: Overrides = field(default_factory=Overrides)

    def project_on_target(self, project: str) -> str:
        """Where an instance of this project goes."""
        return self.target_project or self.overrides.map.projects.get(project, project)


@dataclass(frozen=True, kw_only=True)
class Move:
    """One instance's way from its source to its target, as decided.

    ``identity`` tells the planned instance from another of the same name: its ``volatile.uuid``, or where the server
    has none its creation time.
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

    @property
    def is_copy(self) -> bool:
        """Whether the source stays the instance that it is."""
        return self.method.is_copy


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
