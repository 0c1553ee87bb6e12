"""What broken and foreign runs have left on servers: what it is, how that is known, and the calls that would mend it.

Pure: a ``Scene`` in, pieces of ``Debris`` out. Asked by ``producer.janitor``, which looks, and asks again right before
each piece is mended. It never proposes to delete an instance that runs, nor one of which no other good copy was seen,
and it holds back whatever belongs to a job that may be in the middle of its cutover.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import quote

from common.domain.drill import DRILLED
from common.domain.fleet import Fleet, Profile, Server
from common.domain.generation import MAKING, is_backup_snapshot
from common.domain.instance import (
    BACKUP_STATE,
    COPY_OF,
    GUARD_DEVICE,
    HOOK_MARK,
    MARK_PREFIX,
    REFRESHED,
    STALE_ROLE,
    Config,
    Instance,
    guard_profile,
)
from common.domain.job import Job, State
from common.domain.operation import Operation
from common.domain.units import render_duration, render_size
from common.domain.volume import Volume, Volumes

_NEVER = datetime(1970, 1, 1, tzinfo=UTC)
_PROTECTION = "security.protection.delete"
_AUTOSTART = "boot.autostart"
_POWER = "volatile.last_state.power"

_JOB = r"(?P<job>[^-\s/]+-\d+)"
_SNAPSHOT = re.compile(rf"herder-{_JOB}-\d+")
_PROFILE = re.compile(rf"herder-{_JOB}")
_WRECK = re.compile(rf"(?P<name>.+)-wreck-{_JOB}-\d+")
#: What is beside a volume while that is refreshed: the new one, and the one that was there.
_BESIDE = re.compile(rf"(?P<name>.+)-(?:copy|kept)-{_JOB}")
#: What is made on the target of a volume's backup, until it is whole: it has the marks of its source, if it has any.
_IMPORT = re.compile(rf".+-import-{_JOB}-\d+")
#: LXD gives an instance this name while it moves it between members or pools, and the old one afterwards.
_TEMPORARY = re.compile(r"(?:lxd-)?move-of-(?P<of>.+)")
#: Every guard profile says in its description whose it is.
_OURS = "herder: guard of job "
#: How LXD describes the operations of a transfer.
_TRANSFERS = frozenset(
    {
        "Migrating instance",
        "Live-migrating instance",
        "Creating instance",
        "Migrating storage volume",
        "Copying storage volume",
    }
)


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


def find_debris(scene: Scene, *, stuck_after: timedelta) -> list[Debris]:
    """Everything that was left, by kind; transfers count as stuck when they are older than ``stuck_after``."""
    eye = _Eye(scene)
    wholes = {each.key: piece for each in eye.all for piece in (_about_instance(eye, each),) if piece is not None}
    found = [
        *_stuck_operations(eye, stuck_after),
        *wholes.values(),
        *_snapshots(eye, going={key for key, piece in wholes.items() if piece.kind in _GO_WITH_THEIR_SNAPSHOTS}),
        *_profiles(eye),
        *_doubles(eye),
        *_volumes(eye),
        *_volume_backups(eye),
    ]
    order = list(Kind)
    return sorted(found, key=lambda piece: (order.index(piece.kind), piece.server, piece.project, piece.subject))


def jobs_named(fleet: Fleet, backups: Iterable[str] = ()) -> frozenset[str]:
    """The ids of all jobs that something on the servers bears: marks, profiles, snapshots, wrecks, these backups."""
    named = {_job_in(_SNAPSHOT, name) for name in backups}
    for server in fleet.servers.values():
        for instance in server.instances:
            named |= {instance.marks.get("job", ""), instance.marks.get(HOOK_MARK, "")}
            of_jobs = (each.name for each in instance.snapshots or () if not is_backup_snapshot(each.name))
            named |= {_job_in(_SNAPSHOT, name) for name in of_jobs}
            named.add(_job_in(_WRECK, instance.name))
        named |= {_job_of_volume(volume) for volume in server.volumes.values()}
        named |= {_job_of_profile(profile) for below in server.profiles.values() for profile in below.values()}
    return frozenset(named - {""})


def lost_jobs(scene: Scene) -> tuple[str, ...]:
    """Jobs that an instance or a volume is marked with and that Redis does not know; the retired ones are over."""
    marked = {
        instance.marks.get("job", "")
        for server in scene.fleet.servers.values()
        for instance in server.instances
        if not instance.is_retired and not instance.is_backup
    }
    marked |= {
        volume.marks.get("job", "")
        for server in scene.fleet.servers.values()
        for volume in server.volumes.values()
        if volume.marks.get("state") != "retired"
    }
    return tuple(sorted(marked - {""} - scene.jobs.keys()))


def may_lack_data(instance: Instance) -> bool:
    """Whether its record looks like that of a transfer that never ended: only then is it worth a look into it."""
    was_made = instance.config.get("volatile.apply_template") in ("copy", "create")
    return instance.is_stopped and instance.last_used_at == _NEVER and not was_made and instance.type == "container"


def kin(scene: Scene, piece: Debris) -> tuple[Found, ...]:
    """All instances that a decision about this debris looks at: itself, those of its job, and the same machines."""
    eye = _Eye(scene)
    own = [each for each in eye.all if each.key == (piece.server, piece.project, piece.instance)]
    jobs = {piece.job, *(each.instance.marks.get("job", "") for each in own)} - {""}
    first = {each.key: each for each in (*own, *(each for job in jobs for each in eye.of_job(job)))}
    for each in list(first.values()):
        first |= {other.key: other for other in (*eye.same(each), *eye.namesakes(each))}
        if _is_temporary(each.instance):
            first |= {other.key: other for other in eye.originals(each)}
    return tuple(first.values())


class _Eye:
    """A scene, indexed."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.all = [
            Found(remote, instance)
            for remote, server in sorted(scene.fleet.servers.items())
            for instance in server.instances
        ]
        self._by_job: dict[str, list[Found]] = defaultdict(list)
        self._by_uuid: dict[str, list[Found]] = defaultdict(list)
        for found in self.all:
            profiles = {_job_in(_PROFILE, name) for name in found.instance.profiles}
            for job in {found.instance.marks.get("job", ""), *profiles} - {""}:
                self._by_job[job].append(found)
            if _uuid(found.instance):
                self._by_uuid[_uuid(found.instance)].append(found)

    def of_job(self, job: str) -> list[Found]:
        """Instances with the job's mark or its guard profile."""
        return self._by_job.get(job, [])

    def same(self, found: Found) -> list[Found]:
        """Other instances that are the same machine."""
        return [each for each in self._by_uuid.get(_uuid(found.instance), []) if each.key != found.key]

    def namesakes(self, found: Found) -> list[Found]:
        """Of the same name and with an address of it, whatever their uuid."""
        own = set(found.instance.addresses.values())
        named = (each for each in self.all if each.instance.name == found.instance.name and each.key != found.key)
        return [each for each in named if own & set(each.instance.addresses.values())]

    def twins(self, found: Found) -> list[Found]:
        """The same machine on other servers, or on other members of their cluster."""
        here = (found.remote, found.instance.location)
        return [each for each in self.same(found) if (each.remote, each.instance.location) != here]

    def originals(self, temporary: Found) -> list[Found]:
        """What LXD was moving when it made this temporary instance."""
        match = _TEMPORARY.fullmatch(temporary.instance.name)
        uuids = {_uuid(temporary.instance), match["of"] if match else ""} - {""}
        same = [each for uuid in uuids for each in self._by_uuid.get(uuid, [])]
        return [each for each in same if not _is_temporary(each.instance) and not each.instance.is_guarded]

    def is_at_work(self, job: str) -> bool:
        """Whether its record says that it has not ended."""
        known = self.scene.jobs.get(job)
        return known is not None and not known.has_ended

    def how_it_stands(self, job: str) -> str:
        known = self.scene.jobs.get(job)
        return f"job {job} is {known.state}" if known else f"job {job} is not known"

    def busy(self, found: Found) -> str:
        """What its server is doing with it at this moment, ``""`` if nothing: one name, one hand."""
        running = self.scene.operations.get((found.remote, found.instance.project), ())
        on_it = (each for each in running if not each.is_finished and found.instance.name in each.instances)
        return next((f"'{each.description}' is under way on {found}" for each in on_it), "")

    def sources(self, job: str) -> list[Found]:
        """The job's source; several if a person has copied it with its marks."""
        return [each for each in self.of_job(job) if _is_source(each.instance, job)]

    def origins(self, job: str) -> list[Found]:
        """Its sources; if none bears its marks any more, the same machine elsewhere, one that is not retired if any."""
        own = {each.key for each in self.of_job(job)}
        others = [twin for each in self.of_job(job) for twin in self.twins(each) if twin.key not in own]
        return self.sources(job) or [each for each in others if not each.instance.is_retired] or others

    def running_copies(self, job: str) -> list[Found]:
        """What of this job runs and is not its source, with its marks or without."""
        sources = {each.key for each in self.sources(job)}
        related = [each for of_job in self.of_job(job) for each in (of_job, *self.same(of_job))]
        return [each for each in related if each.key not in sources and each.instance.is_running]

    def hold(self, job: str) -> str:
        """Why nothing of this job may be touched; ``""`` if it may.

        A source that is guarded or stopped while no target runs is what a cutover leaves when it is interrupted: only
        who knows the protocol may go on from there.
        """
        known = self.scene.jobs.get(job)
        if known is not None and known.state is State.PARKED:
            return f"job {job} is parked and waits for you: `herder retry {job}` or `herder cancel {job}`"
        under_way = next(filter(None, map(self.busy, self.of_job(job))), "")
        if under_way or self.running_copies(job):
            return under_way
        origins = self.origins(job)
        for each in origins:
            if each.instance.is_guarded or not each.instance.is_running:
                what = "guarded" if each.instance.is_guarded else each.instance.status.lower()
                return f"its source {each} is {what} and no target runs: {_RECOVER}"
        return "" if origins else self.missing_source(job)

    def missing_source(self, job: str) -> str:
        """Where its copy says that its source is, nobody could look; ``""`` if that is not so."""
        told = (each.instance.marks.get("source", "") for each in self.of_job(job))
        return next((self.unseen(place) for place in told if self.unseen(place)), "")

    def unseen(self, place: str) -> str:
        """Why ``s1:web1`` cannot be judged: nobody could look at its server. ``""`` if somebody did."""
        remote = place.partition(":")[0]
        if not place or self.scene.aliases.get(remote, remote) in self.scene.fleet.servers:
            return ""
        return f"{place} was not seen: {self.scene.unseen.get(remote, f'no remote {remote} was looked at')}"


_RECOVER = "it may be in the middle of its cutover; `herder recover` takes it on"


def _uuid(instance: Instance) -> str:
    return instance.config.get("volatile.uuid", "")


def _job_in(pattern: re.Pattern[str], name: str) -> str:
    match = pattern.fullmatch(name)
    return match["job"] if match else ""


def _job_of_profile(profile: Profile) -> str:
    return _job_in(_PROFILE, profile.name) if profile.description.startswith(_OURS) else ""


def _is_temporary(instance: Instance) -> bool:
    return _TEMPORARY.fullmatch(instance.name) is not None


def _is_source(instance: Instance, job: str) -> bool:
    if instance.marks.get("job") == job:
        return instance.marks.get("role") == "source" or instance.marks.get("state") == "retired"
    return guard_profile(job) in instance.profiles


def _delete(found: Found) -> tuple[Call, ...]:
    name, project = found.instance.name, found.instance.project
    return (Call(action=Action.DELETE, name=name, project=project),)


def _about_instance(eye: _Eye, found: Found) -> Debris | None:
    """The instance as a whole: at most one kind of debris."""
    instance = found.instance
    job = instance.marks.get("job", "") or _job_in(_WRECK, instance.name)
    # Between its runs a staging copy is nobody's, and a generation always is.
    is_at_rest = instance.config.get(BACKUP_STATE, MAKING) not in (MAKING, DRILLED)
    is_at_rest = is_at_rest and not _WRECK.fullmatch(instance.name)
    if is_at_rest or (job and eye.is_at_work(job)):
        return None
    if _is_temporary(instance):
        return _temporary(eye, found)
    if job:
        return _wreck(eye, found, job) if _WRECK.fullmatch(instance.name) else _marked(eye, found, job)
    if instance.is_guarded and GUARD_DEVICE in instance.devices:
        return _guarded_without_marks(eye, found)
    if found.key in eye.scene.phantoms and not eye.busy(found):
        return _foreign_phantom(eye, found)
    hook = instance.marks.get(HOOK_MARK, "")
    return _left_quiet(eye, found, hook) if hook and not eye.is_at_work(hook) else None


def _piece(kind: Kind, found: Found, proof: str, **more: object) -> Debris:
    about = {"server": found.remote, "subject": found.instance.name, "instance": found.instance.name}
    return Debris(kind=kind, proof=proof, project=found.instance.project, **(about | more))  # type: ignore[arg-type]


def _marked(eye: _Eye, found: Found, job: str) -> Debris:
    instance = found.instance
    if instance.config.get(BACKUP_STATE) == DRILLED:
        return _clone_of_drill(eye, found, job)
    if _is_source(instance, job):
        return _left_source(eye, found, job)
    is_unfinished = instance.is_guarded or instance.marks.get("state") in ("receiving", "complete")
    if is_unfinished and not instance.is_running:
        return _half(eye, found, job)
    return _marks(eye, found, job)


def _half(eye: _Eye, found: Found, job: str) -> Debris:
    """A copy that was never handed over: the source is the instance."""
    instance = found.instance
    sources = eye.origins(job)
    state = instance.marks.get("state", "unknown")
    guarded = ", guarded" if instance.is_guarded else ""
    good = f"its source {sources[0]} is {sources[0].instance.status}" if sources else "no source of it was seen"
    proof = f"state {state}{guarded}, {instance.status}; {eye.how_it_stands(job)}; {good}"
    held = eye.hold(job)
    # Of a move it may be all there is. The source of a copy is never touched.
    whole = [each for each in sources if each.instance.is_running and _uuid(each.instance) == _uuid(instance)]
    if not held and not whole and COPY_OF not in instance.config:
        held = "no source with its uuid runs, so it may be the only copy"
    if not held and instance.marks.get(REFRESHED):
        held = "it was there before its refresh, or is what was kept of it; `herder recover` goes on with the job"
    if found.key in eye.scene.phantoms and _needs_root(eye, found) and not eye.busy(found):
        proof += "; its root directory is not there, and on btrfs LXD cannot delete it"
        return _piece(Kind.PHANTOM, found, proof, job=job, held=held, hint=as_root(found))
    return _piece(
        Kind.HALF,
        found,
        proof,
        job=job,
        calls=_delete(found),
        risk="none as long as the source is whole: what was copied has to be copied again",
        held=held,
        hint=f"`herder recover` may go on from it, if job {job} was lost with Redis" if not held else "",
    )


def _pool_driver(eye: _Eye, found: Found) -> str:
    pool = eye.scene.fleet.servers[found.remote].pools.get(found.instance.root_pool)
    return pool.driver if pool else ""


def _needs_root(eye: _Eye, found: Found) -> bool:
    """LXD 5.0.2 on btrfs can delete a wreck only if it has no snapshots; a renamed one had them."""
    is_aside = bool(_WRECK.fullmatch(found.instance.name))
    return _pool_driver(eye, found) == "btrfs" and (is_aside or bool(found.instance.snapshots))


def as_root(found: Found) -> str:
    """The shell commands for the server's own root."""
    project = found.instance.project
    volume = found.instance.name if project == "default" else f"{project}_{found.instance.name}"
    in_project = "" if project == "default" else f" --project {project}"
    place = f"/var/snap/lxd/common/lxd/storage-pools/{found.instance.root_pool}/containers"
    records = f"SELECT id FROM storage_volumes WHERE type = 0 AND name = '{volume}'"  # noqa: S608 - for a person
    forget = f'lxd sql global "DELETE FROM storage_volumes_snapshots WHERE storage_volume_id = ({records})"'  # noqa: S608
    return (
        f"as root on {found.remote} (without snap: /var/lib/lxd): "
        f"cd {place} && rm -rf {volume} && btrfs subvolume create {volume} "
        f"&& lxc delete{in_project} {found.instance.name}; if that says that it has snapshots: "
        f"{forget} && btrfs subvolume delete ../containers-snapshots/{volume}/*, and delete it again"
    )


def _wreck(eye: _Eye, found: Found, job: str) -> Debris:
    proof = f"its name says that job {job} has set it aside; {eye.how_it_stands(job)}"
    held = eye.hold(job) or eye.busy(found)
    if found.instance.is_running:
        held = "it runs"
    if _needs_root(eye, found):
        proof += "; on btrfs LXD cannot delete it"
        return _piece(Kind.WRECK, found, proof, job=job, held=held, hint=as_root(found))
    return _piece(Kind.WRECK, found, proof, job=job, calls=_delete(found), risk="none: it is no instance", held=held)


def _clone_of_drill(eye: _Eye, found: Found, job: str) -> Debris:
    """It was made to be thrown away, whether it runs or not: nothing else bears what it is."""
    name, project, known = found.instance.name, found.instance.project, eye.scene.jobs.get(job)
    of = found.instance.marks.get("source", "a generation")
    stop = (Call(action=Action.STOP, name=name, project=project),) if not found.instance.is_stopped else ()
    is_parked = known is not None and known.state is State.PARKED
    return _piece(
        Kind.DRILL,
        found,
        f"the clone that a drill has made of {of}, {found.instance.status}; {eye.how_it_stands(job)}",
        job=job,
        calls=(*stop, *_delete(found)),
        risk="none: the generation is another instance",
        held=eye.hold(job) if is_parked else eye.busy(found),
    )


def _foreign_phantom(eye: _Eye, found: Found) -> Debris:
    proof = "it was never started, and its root directory is not there: what a killed server leaves of a transfer"
    if _needs_root(eye, found):
        return _piece(Kind.PHANTOM, found, proof, hint=as_root(found))
    in_project = "" if found.instance.project == "default" else f" --project {found.instance.project}"
    hint = f"nothing shows that it is herder's or LXD's own; if it is nobody's: lxc delete{in_project} {found}"
    return _piece(Kind.PHANTOM, found, proof, hint=hint)


def _temporary(eye: _Eye, found: Found) -> Debris:
    """LXD renames it to the real name as the last thing; before that the original is the instance."""
    instance, originals = found.instance, eye.originals(found)
    proof = "LXD names an instance so while it moves it"
    proof += (
        f"; {originals[0]} is there, {originals[0].instance.status}" if originals else "; no original of it was seen"
    )
    held = next(filter(None, (eye.busy(each) for each in (found, *originals))), "")
    if instance.is_running:
        held = "it runs"
    elif not originals:
        held = "it may be the only copy"
    if found.key in eye.scene.phantoms and _needs_root(eye, found):
        proof += "; its root directory is not there, and on btrfs LXD cannot delete it"
        return _piece(Kind.TEMPORARY, found, proof, held=held, hint=as_root(found))
    name, project = instance.name, instance.project
    unprotect = (Call(action=Action.PATCH, name=name, project=project, config={_PROTECTION: "false"}),)
    return _piece(
        Kind.TEMPORARY,
        found,
        proof,
        calls=(*(unprotect if instance.expanded_config.get(_PROTECTION) == "true" else ()), *_delete(found)),
        risk="none as long as the original is whole",
        held=held,
        hint="" if originals else f"look into it; `lxc rename {found} NAME` gives it its name back",
    )


def _left_source(eye: _Eye, found: Found, job: str) -> Debris:
    """Retired, as good as retired, in the middle of a cutover, or just marked."""
    is_passed_on = found.instance.is_guarded and found.instance.is_stopped and bool(eye.running_copies(job))
    return _retired(eye, found, job) if found.instance.is_retired or is_passed_on else _marks(eye, found, job)


def _retired(eye: _Eye, found: Found, job: str) -> Debris:
    instance, known = found.instance, eye.scene.jobs.get(job)
    if instance.marks.get("role") == STALE_ROLE:
        held = "a failover has kept it: what was written here since its backup is on no other server"
        hint = f"take what you need of it, then `lxc delete {found}`"
        return _piece(Kind.RETIRED, found, f"job {job} has failed it over", job=job, held=held, hint=hint)
    running = [each for each in eye.twins(found) if each.instance.is_running]
    if not running:
        where = instance.marks.get("target", "its target")
        held = eye.unseen(where) or "no running instance with its uuid was seen: it may be the only good copy"
        return _piece(Kind.RETIRED, found, f"job {job} retired it; {where} does not run", job=job, held=held)
    twin = running[0]
    since = (known.finished_at if known else None) or twin.instance.created_at
    took = f", takes {render_size(eye.scene.used[found.key])}" if eye.scene.used.get(found.key) else ""
    done = "retired after its target was verified" if instance.is_retired else "guarded, but never retired"
    age = render_duration(eye.scene.fleet.seen_at - since)
    return _piece(
        Kind.RETIRED,
        found,
        f"{done}, {age} ago ({since:%Y-%m-%d %H:%M} UTC){took}; {twin} has its uuid and runs",
        job=job,
        calls=_delete(found),
        risk=_risk_of_deleting(found, twin),
        held=eye.hold(job) or _why_keep(eye, found),
    )


def _risk_of_deleting(found: Found, twin: Found) -> str:
    there = {each.name for each in twin.instance.snapshots or ()}
    only_here = [
        s.name for s in found.instance.snapshots or () if s.name not in there and not _SNAPSHOT.fullmatch(s.name)
    ]
    lost = f"; lost with it are the snapshots that only it has: {', '.join(only_here)}" if only_here else ""
    return f"no way back: {twin} is the only one then{lost}"


def _why_keep(eye: _Eye, found: Found) -> str:
    instance = found.instance
    if not instance.is_stopped:
        return f"it is {instance.status}"
    if not instance.is_retired:
        return "nothing proves that its target was verified; `herder recover` goes on with that"
    if instance.marks.get("role") != "source":
        return "`herder undo` has kept it: what the guest wrote here before that is on no other server"
    if instance.expanded_config.get(_PROTECTION) == "true":
        return f"{_PROTECTION} is set"
    return eye.busy(found)


def _guarded_without_marks(eye: _Eye, found: Found) -> Debris:
    running = [each for each in eye.twins(found) if each.instance.is_running]
    was_used = found.instance.last_used_at != _NEVER
    proof = "it has the guard and no marks" + (f"; {running[0]} has its uuid and runs" if running else "")
    held = eye.busy(found)
    if found.instance.is_running:
        held = "it runs"
    elif was_used:
        held = "it has run here, and nothing proves that it was handed over"
    elif not running:
        held = "no running instance with its uuid was seen: it may be the only good copy"
    return _piece(
        Kind.HALF,
        found,
        proof,
        calls=_delete(found),
        risk="none as long as the other one is whole",
        held=held,
        hint=f"if it shall run: `lxc config device remove {found} {GUARD_DEVICE}`" if held else "",
    )


def _marks(eye: _Eye, found: Found, job: str) -> Debris:
    instance = found.instance
    proof = f"marks of job {job} ({', '.join(sorted(instance.marks))}); {instance.status}; {eye.how_it_stands(job)}"
    keys = {MARK_PREFIX + name: "" for name in sorted(instance.marks)}
    profiles = instance.own_profiles if instance.own_profiles != instance.profiles else None
    call = Call(action=Action.PATCH, name=instance.name, project=instance.project, config=keys, profiles=profiles)
    return _piece(
        Kind.MARKS,
        found,
        proof,
        job=job,
        calls=(call,),
        risk=f"none on the instance; `herder recover` cannot rebuild job {job} any more",
        held=eye.hold(job) or _why_marked(eye, found, job),
    )


def _left_quiet(eye: _Eye, found: Found, job: str) -> Debris:
    """The lines are known to the policy alone: whoever has that ends it, and then the mark goes."""
    key = MARK_PREFIX + HOOK_MARK
    known = eye.scene.jobs.get(job)
    return _piece(
        Kind.MARKS,
        found,
        f"job {job} has begun the hook before a snapshot, and nobody that after it; {eye.how_it_stands(job)}",
        job=job,
        held="what the hook has made quiet may be so still",
        hint=f"`herder retry {job}`"
        if known is not None and known.state is State.PARKED
        else "the next run of its policy ends it; or run the lines of `hook.after` in it yourself, then `lxc config "
        f"unset {found} {key}`",
    )


def _why_marked(eye: _Eye, found: Found, job: str) -> str:
    """The marks tell a way back that the target runs: they stay until the source is retired."""
    running = eye.running_copies(job)
    sources = eye.sources(job)
    if not sources and eye.missing_source(job):
        return eye.missing_source(job)
    if running and any(each.instance.is_running for each in sources):
        return (
            f"both {next(each for each in sources if each.instance.is_running)} and {running[0]} run: stop one of them"
        )
    unretired = [each for each in sources if not each.instance.is_retired]
    if unretired and found.key not in {each.key for each in sources}:
        return f"its source {unretired[0]} is not retired yet; `herder recover` finishes that"
    if found.instance.is_guarded:
        return f"it is guarded; {_RECOVER}"
    return ""


#: Their deletion takes their snapshots with it.
_GO_WITH_THEIR_SNAPSHOTS = frozenset({Kind.HALF, Kind.WRECK, Kind.PHANTOM, Kind.TEMPORARY})


def _snapshots(eye: _Eye, *, going: set[tuple[str, str, str]]) -> Iterator[Debris]:
    for found in eye.all:
        if found.key in going:
            continue
        for snapshot in found.instance.snapshots or ():
            job = _job_in(_SNAPSHOT, snapshot.name)
            holder = found.instance.marks.get("job", "")
            if (
                not job
                or is_backup_snapshot(snapshot.name)
                or eye.is_at_work(job)
                or (holder and eye.is_at_work(holder))
            ):
                continue
            call = Call(
                action=Action.DELETE_SNAPSHOT,
                name=found.instance.name,
                project=found.instance.project,
                snapshot=snapshot.name,
            )
            yield _piece(
                Kind.SNAPSHOT,
                found,
                f"its name says that it is of job {job}; {eye.how_it_stands(job)}",
                subject=f"{found.instance.name}/{snapshot.name}",
                job=job,
                calls=(call,),
                risk="the next refresh of this instance sends all of it",
                held=eye.hold(job) or (eye.hold(holder) if holder else "") or eye.busy(found),
            )


def _profiles(eye: _Eye) -> Iterator[Debris]:
    for remote, server in sorted(eye.scene.fleet.servers.items()):
        for project, profile in _own_profiles(server):
            job = _job_of_profile(profile)
            if not job or eye.is_at_work(job):
                continue
            users = [each for each in eye.all if each.remote == remote and profile.name in each.instance.profiles]
            proof = f"its name and description say that it is of job {job}; {eye.how_it_stands(job)}; "
            proof += f"used by {', '.join(each.instance.name for each in users)}" if users else "used by no instance"
            yield Debris(
                kind=Kind.PROFILE,
                server=remote,
                project=project,
                subject=profile.name,
                job=job,
                proof=proof,
                calls=(*(_without(each, profile.name) for each in users), _delete_profile(profile, project)),
                risk="none: no instance is kept from starting by it",
                held=eye.hold(job) or next(filter(None, (_why_guarded(eye, each) for each in users)), ""),
            )


def _own_profiles(server: Server) -> Iterator[tuple[str, Profile]]:
    """Each once: a project without profiles of its own shows those of the default one."""
    default = server.profiles.get("default", {})
    for project, below in sorted(server.profiles.items()):
        for profile in below.values():
            if project == "default" or default.get(profile.name) != profile:
                yield project, profile


def _without(found: Found, profile: str) -> Call:
    instance = found.instance
    kept = tuple(name for name in instance.profiles if name != profile)
    return Call(action=Action.PATCH, name=instance.name, project=instance.project, profiles=kept)


def _delete_profile(profile: Profile, project: str) -> Call:
    return Call(action=Action.DELETE_PROFILE, name=profile.name, project=project)


def _why_guarded(eye: _Eye, user: Found) -> str:
    holder = user.instance.marks.get("job", "")
    if holder and eye.is_at_work(holder):
        return f"job {holder} is at work on {user}"
    if user.instance.is_guarded:
        return f"it keeps {user} from starting"
    return eye.busy(user)


def _doubles(eye: _Eye) -> Iterator[Debris]:
    """The same machine on two servers, as far as nothing else explains it and no guard keeps one of them down."""
    seen: set[frozenset[tuple[str, str, str]]] = set()
    for key, group in _same_machines(eye):
        keys = frozenset(each.key for each in group)
        if len({each.remote for each in group}) > 1 and keys not in seen:
            seen.add(keys)
            yield from _double(eye, group, key)


def _same_machines(eye: _Eye) -> Iterator[tuple[str, list[Found]]]:
    by_sign: dict[str, list[Found]] = defaultdict(list)
    for found in eye.all:
        instance = found.instance
        job = instance.marks.get("job", "")
        is_other = _WRECK.fullmatch(instance.name) or _is_temporary(instance)
        if instance.is_guarded or is_other or (job and eye.is_at_work(job)):
            continue
        if _uuid(instance):
            by_sign[f"the same volatile.uuid {_uuid(instance)}"].append(found)
        for address in sorted(set(instance.addresses.values())):
            by_sign[f"the same name and the same address {address}"].append(found)
    for sign, group in by_sign.items():
        if sign.startswith("the same volatile.uuid"):
            yield sign, group
            continue
        for name in sorted({each.instance.name for each in group}):
            yield sign, [each for each in group if each.instance.name == name]


def starts_at_boot(instance: Instance) -> bool:
    """Whether its server starts it when it starts itself."""
    wanted = instance.expanded_config.get(_AUTOSTART, "")
    if wanted:
        return wanted in ("true", "1", "yes", "on")
    return instance.config.get(_POWER) == "RUNNING"


def _double(eye: _Eye, group: list[Found], sign: str) -> Iterator[Debris]:
    runners = [each for each in group if each.instance.is_running]
    others = [each for each in group if not each.instance.is_running]
    boots = [str(each) for each in group if starts_at_boot(each.instance)]
    told = ", ".join(f"{each} is {each.instance.status}" for each in group)
    proof = f"{sign}: {told}; at boot start: {', '.join(boots) or 'none'}"
    for each in others if runners else group[1:]:
        call = Call(
            action=Action.PATCH, name=each.instance.name, project=each.instance.project, config={_AUTOSTART: "false"}
        )
        would_start = bool(runners) and starts_at_boot(each.instance)
        yield _piece(
            Kind.DOUBLE,
            each,
            proof,
            calls=(call,) if would_start else (),
            risk=f"{each} does not start with its server any more" if would_start else "",
            held=eye.busy(each) if would_start else "",
            hint="look at both, and delete or rename the one that is not needed",
        )
    for each in runners[1:]:
        yield _piece(Kind.DOUBLE, each, proof, hint="both run: stop one of them now, then look at both")


def _volumes(eye: _Eye) -> Iterator[Debris]:
    """Told, and never touched: no server tells what is in a volume, nor when somebody wrote into it."""
    for remote, server in sorted(eye.scene.fleet.servers.items()):
        for volume in sorted(own_volumes(server.volumes), key=lambda each: (each.project, each.place)):
            job = _job_of_volume(volume)
            users = volume.other_users(project=volume.project)
            if not job or eye.is_at_work(job) or (volume.is_retired and users):
                continue  # a retired one goes with the retired instance that attaches it
            is_import = bool(_job_in(_IMPORT, volume.name))
            is_told = volume.marks and not is_import
            told = f"marks of job {job} ({', '.join(sorted(volume.marks))})" if is_told else "its name"
            used = f"attached by {', '.join(users)}" if users else "attached by nobody"
            yield Debris(
                kind=Kind.RETIRED if volume.is_retired and not is_import else Kind.VOLUME,
                server=remote,
                project=volume.project,
                subject=f"volume {volume.place}",
                job=job,
                proof=f"{told}; {used}; {eye.how_it_stands(job)}",
                held=eye.hold(job) if eye.scene.jobs.get(job) else "",
                hint=_about_left_volume(eye, remote, volume, job),
            )


def _about_left_volume(eye: _Eye, remote: str, volume: Volume, job: str) -> str:
    delete = f"`lxc storage volume delete {remote}:{volume.pool} {volume.name} --project {volume.project}`"
    if _IMPORT.fullmatch(volume.name):
        return f"{delete}: it was being made of a backup, and nobody knows whether it is whole"
    if volume.is_retired:
        return f"{delete} when it is not needed any more"
    if not volume.marks:
        beside = _BESIDE.fullmatch(volume.name)
        of = f"{volume.pool}/{beside['name']}" if beside else volume.place
        return f"what {of} was before a refresh that broke, if there is none now: rename it; else {delete}"
    if job not in eye.scene.jobs:
        return f"`herder recover` goes on with its job; if it cannot: {_without_marks(remote, volume)}"
    return f"{delete}, or keep it: {_without_marks(remote, volume)}"


def _without_marks(remote: str, volume: Volume) -> str:
    unset = f"`lxc storage volume unset {remote}:{volume.pool} {volume.name} KEY`"
    return f"{unset} for each of its {MARK_PREFIX}* keys"


def _job_of_volume(volume: Volume) -> str:
    return _job_in(_IMPORT, volume.name) or volume.marks.get("job", "") or _job_in(_BESIDE, volume.name)


def own_volumes(volumes: Volumes) -> Iterator[Volume]:
    """Each once: a project without volumes of its own shows those of the default one."""
    for (pool, project, name), volume in volumes.items():
        default = volumes.get((pool, "default", name))
        if project == "default" or default is None or default.config != volume.config:
            yield volume


def _volume_backups(eye: _Eye) -> Iterator[Debris]:
    """What a job has carried a volume with; it makes another one, should it go on after all."""
    for (remote, pool, project, name), backups in sorted(eye.scene.backups.items()):
        for backup in sorted(backups):
            job = _job_in(_SNAPSHOT, backup)
            if not job or eye.is_at_work(job):
                continue
            call = Call(action=Action.DELETE_BACKUP, name=backup, project=project, pool=pool, volume=name)
            yield Debris(
                kind=Kind.BACKUP,
                server=remote,
                project=project,
                subject=f"backup {pool}/{name}/{backup}",
                job=job,
                proof=f"its name says that it is of job {job}; {eye.how_it_stands(job)}",
                calls=(call,),
                risk="none: the volume itself is not touched",
                held=eye.hold(job) if eye.scene.jobs.get(job) else "",
            )


def _stuck_operations(eye: _Eye, stuck_after: timedelta) -> Iterator[Debris]:
    for (remote, project), running in sorted(eye.scene.operations.items()):
        for operation in running:
            age = eye.scene.fleet.seen_at - operation.created_at
            if operation.is_finished or operation.description not in _TRANSFERS or age < stuck_after:
                continue
            if operation.id in eye.scene.awaited or _is_of_a_job_at_work(eye, remote, project, operation):
                continue
            names = ", ".join(sorted(operation.instances)) or "no instance"
            sent = str(operation.metadata.get("fs_progress") or "no progress told")
            yield Debris(
                kind=Kind.OPERATION,
                server=remote,
                project=project,
                subject=operation.id,
                proof=f"'{operation.description}' of {names} for {render_duration(age)}; {sent}; no job waits for it",
                calls=(Call(action=Action.CANCEL, name=operation.id, project=project),) if operation.may_cancel else (),
                risk="if it is somebody's transfer after all, it fails" if operation.may_cancel else "",
                hint=""
                if operation.may_cancel
                else f"LXD cannot cancel it; a restart of the daemon of {remote} ends it",
            )


def _is_of_a_job_at_work(eye: _Eye, remote: str, project: str, operation: Operation) -> bool:
    server = eye.scene.fleet.servers[remote]
    there: Iterable[Instance | None] = (server.instance(project, name) for name in operation.instances)
    return any(each is not None and eye.is_at_work(each.marks.get("job", "")) for each in there)
