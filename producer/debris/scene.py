"""What is seen on servers, what of it was left, and the calls that would mend it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import quote

from common.domain.fleet import Fleet, Profile
from common.domain.instance import (
    Config,
    Instance,
)
from common.domain.job import Job
from common.domain.operation import Operation
from common.domain.volume import Volume

_JOB = r"(?P<job>[^-\s/]+-\d+)"


SNAPSHOT = re.compile(rf"herder-{_JOB}-\d+")


PROFILE = re.compile(rf"herder-{_JOB}")


WRECK = re.compile(rf"(?P<name>.+)-wreck-{_JOB}-\d+")


#: What is beside a volume while that is refreshed: the new one, and the one that was there.
BESIDE = re.compile(rf"(?P<name>.+)-(?:copy|kept)-{_JOB}")


#: What is made on the target of a volume's backup, until it is whole: it has the marks of its source, if it has any.
IMPORT = re.compile(rf".+-import-{_JOB}-\d+")


#: LXD gives an instance this name while it moves it between members or pools, and the old one afterwards.
TEMPORARY = re.compile(r"(?:lxd-)?move-of-(?P<of>.+)")


#: Every guard profile says in its description whose it is.
_OURS = "herder: guard of job "


class Kind(StrEnum):
    """Kinds of debris, in the order in which they are mended."""

    OPERATION = "operation"
    HALF = "half"
    TEMPORARY = "temporary"
    DRILL = "drill"
    WRECK = "wreck"
    PHANTOM = "phantom"
    RETIRED = "retired"
    SNAPSHOT = "snapshot"
    MARKS = "marks"
    PROFILE = "profile"
    DOUBLE = "double"
    VOLUME = "volume"
    BACKUP = "backup"


#: What each kind is, for people.
MEANINGS: Mapping[Kind, str] = {
    Kind.OPERATION: "transfers that no job waits for and that have not ended for long",
    Kind.HALF: "copies on a target whose job is not at work",
    Kind.TEMPORARY: "temporary instances of LXD's own moves that broke",
    Kind.DRILL: "clones of drills whose job is not at work",
    Kind.WRECK: "wrecks that herder has set aside",
    Kind.PHANTOM: "records of instances whose data is not there",
    Kind.RETIRED: "stopped sources whose instance runs on another server",
    Kind.SNAPSHOT: "herder's snapshots of jobs that are not at work",
    Kind.MARKS: "herder's marks of jobs that are not at work",
    Kind.PROFILE: "herder's guard profiles of jobs that are not at work",
    Kind.DOUBLE: "instances that exist on two servers",
    Kind.VOLUME: "custom volumes of jobs that are not at work",
    Kind.BACKUP: "backups of custom volumes whose jobs are not at work",
}


class Action(StrEnum):
    """What a call does."""

    DELETE = "delete"
    DELETE_SNAPSHOT = "delete_snapshot"
    DELETE_PROFILE = "delete_profile"
    DELETE_BACKUP = "delete_backup"
    PATCH = "patch"
    CANCEL = "cancel"
    STOP = "stop"


_DELETED: Mapping[Action, str] = {
    Action.DELETE: "instances/{name}",
    Action.DELETE_SNAPSHOT: "instances/{name}/snapshots/{snapshot}",
    Action.DELETE_PROFILE: "profiles/{name}",
    Action.DELETE_BACKUP: "storage-pools/{pool}/volumes/custom/{volume}/backups/{name}",
}


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request to the server of its debris; ``str`` gives it as it goes out, without the ETag.

    ``name`` is that of the instance, profile or operation, or of the backup of a custom volume. A patch
    adds to ``config``, where ``""`` deletes a key, and sets ``profiles`` unless they are None.
    """

    action: Action
    name: str
    project: str = "default"
    snapshot: str = ""
    pool: str = ""
    volume: str = ""
    config: Config = field(default_factory=dict)
    profiles: tuple[str, ...] | None = None

    def __str__(self) -> str:
        told = {each: quote(getattr(self, each), safe="") for each in ("name", "snapshot", "pool", "volume")}
        name, where = told["name"], f"?project={quote(self.project, safe='')}"
        match self.action:
            case Action.CANCEL:
                return f"DELETE /1.0/operations/{name}"
            case Action.STOP:
                return f'PUT /1.0/instances/{name}/state{where} {{"action": "stop", "force": true}}'
            case Action.PATCH:
                body = {"config": dict(self.config)} if self.config else {}
                body |= {} if self.profiles is None else {"profiles": list(self.profiles)}  # type: ignore[dict-item]
                return f"PATCH /1.0/instances/{name}{where} {json.dumps(body, sort_keys=True)}"
            case _:
                return f"DELETE /1.0/{_DELETED[self.action].format_map(told)}{where}"


@dataclass(frozen=True, kw_only=True)
class Debris:
    """One thing that was left.

    ``proof`` says how that is known, ``risk`` what its ``calls`` could cost. ``held`` says why they are not made now,
    empty if they may be; ``hint`` what a person can do. ``instance`` is the one that it is or belongs to, if any.
    """

    kind: Kind
    server: str
    subject: str
    proof: str
    project: str = "default"
    instance: str = ""
    job: str = ""
    calls: tuple[Call, ...] = ()
    risk: str = ""
    held: str = ""
    hint: str = ""

    @property
    def is_mendable(self) -> bool:
        return bool(self.calls) and not self.held

    @property
    def place(self) -> tuple[str, str, str, str]:
        """What tells it from all other debris."""
        return (self.kind, self.server, self.project, self.subject)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Servers, with all their instances and snapshots, and what Redis knows of the jobs that they name.

    ``unseen``: why a server could not be looked at; ``aliases``: other names of a server that is in the fleet.
    ``operations`` by remote and project; ``awaited`` are the ids of those that jobs wait for. ``phantoms``: remote,
    project and name of instances whose root directory is not there. ``used``: the same key -> bytes of its root disk,
    where the server tells. ``backups``: names of those that custom volumes have, by remote, pool, project and name.
    """

    fleet: Fleet
    jobs: Mapping[str, Job] = field(default_factory=dict)
    operations: Mapping[tuple[str, str], tuple[Operation, ...]] = field(default_factory=dict)
    awaited: frozenset[str] = frozenset()
    phantoms: frozenset[tuple[str, str, str]] = frozenset()
    used: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    backups: Mapping[tuple[str, str, str, str], frozenset[str]] = field(default_factory=dict)
    unseen: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)


class Found(NamedTuple):
    """An instance and the remote of its server."""

    remote: str
    instance: Instance

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.remote, self.instance.project, self.instance.name)

    def __str__(self) -> str:
        return f"{self.remote}:{self.instance.name}"


def job_in(pattern: re.Pattern[str], name: str) -> str:
    """The id of the job that a name of this kind tells of, ``""`` if it is none."""
    match = pattern.fullmatch(name)
    return match["job"] if match else ""


def job_of_profile(profile: Profile) -> str:
    """Whose guard it is, ``""`` if nobody's."""
    return job_in(PROFILE, profile.name) if profile.description.startswith(_OURS) else ""


def is_temporary(instance: Instance) -> bool:
    """Whether LXD has made it for a move of its own."""
    return TEMPORARY.fullmatch(instance.name) is not None


def job_of_volume(volume: Volume) -> str:
    """Whose it is, by its name or its marks, ``""`` if no job's."""
    return job_in(IMPORT, volume.name) or volume.marks.get("job", "") or job_in(BESIDE, volume.name)
