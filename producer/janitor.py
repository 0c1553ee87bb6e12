"""Looks at servers for what ``producer.debris`` knows, and makes the calls that mend it. Called by ``herder janitor``.

The servers are the truth: right before a piece is mended, all instances that the decision rests on are read again, and
nothing is done unless it comes out as it was shown.
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import tenacity

from common.config import Settings
from common.domain.errors import HerderError, NotFound, NotTrusted, ServerBusy, ServerRefused
from common.domain.fleet import Fleet, Server
from common.domain.instance import Instance
from common.domain.job import Job
from common.domain.operation import Operation
from common.domain.volume import Volume
from common.domain.volume_ways import VOLUME_BACKUP_EXTENSIONS
from common.lxd.client import LxdClient
from common.lxd.connect import connect
from common.lxd.remotes import Remote, Remotes
from common.store.jobs import JobStore
from common.store.operations import OperationStore
from producer.debris.finding import find_debris, jobs_named, kin
from producer.debris.instances import as_root, may_lack_data
from producer.debris.scene import Action, Call, Debris, Found, Kind, Scene
from producer.debris.volumes import own_volumes

#: Requests to one server at the same time.
_AT_ONCE = 8
_PATIENCE = timedelta(minutes=10)
_WAIT_SECONDS = 30
#: What LXD says when it cannot delete a wreck on btrfs.
_NO_SUBVOLUME = "Could not get subvolume flags"


@dataclass(frozen=True, kw_only=True)
class Mended:
    """What became of a piece; ``left`` says why it was not mended, empty if it was."""

    debris: Debris
    left: str = ""


@dataclass(frozen=True, kw_only=True)
class _Look:
    """One server as the janitor sees it."""

    client: LxdClient
    server: Server
    operations: Mapping[str, tuple[Operation, ...]]
    phantoms: frozenset[tuple[str, str, str]]
    used: Mapping[tuple[str, str, str], int]
    backups: Mapping[tuple[str, str, str, str], frozenset[str]]


@dataclass
class Janitor:
    """Looks and mends. Remote names are those of the client's configuration."""

    remotes: Remotes
    settings: Settings
    jobs: JobStore
    operations: OperationStore
    stuck_after: timedelta
    _clients: dict[str, LxdClient] = field(default_factory=dict)

    def look(self, names: Sequence[str]) -> Scene:
        """These servers, and those that the marks on them name; the jobs are read last, after what they have made."""
        looks, unseen = self._visit([self.remotes.get(name) for name in names])
        partners = _partners(looks.values()) & self.remotes.known.keys() - looks.keys() - unseen.keys()
        more, more_unseen = self._visit([each for each in self.remotes if each.name in partners])
        kept, aliases = _without_aliases({**looks, **more})
        self._clients = {name: look.client for name, look in kept.items()}
        fleet = Fleet(seen_at=datetime.now(UTC), servers={name: look.server for name, look in kept.items()})
        backups = {key: names for look in kept.values() for key, names in look.backups.items()}
        return Scene(
            fleet=fleet,
            jobs=self._known(jobs_named(fleet, backups=frozenset().union(*backups.values()))),
            operations={(name, where): ops for name, look in kept.items() for where, ops in look.operations.items()},
            awaited=self._awaited([*looks, *more]),
            phantoms=frozenset().union(*(look.phantoms for look in kept.values())),
            used={key: size for look in kept.values() for key, size in look.used.items()},
            backups=backups,
            unseen={**unseen, **more_unseen},
            aliases=aliases,
        )

    def find(self, scene: Scene) -> list[Debris]:
        """What was left, by kind."""
        return find_debris(scene, stuck_after=self.stuck_after)

    def mend(self, scene: Scene, piece: Debris) -> Mended:
        """Make its calls, if a new look comes to the same; says why not, never raises for what one server answers."""
        try:
            now = self._look_again(scene, piece)
            fresh = self._same(now, piece)
            left = _why_not(fresh, piece) or _why_it_moves(scene, now, piece)
            if left or fresh is None:
                return Mended(debris=piece, left=left)
            for call in fresh.calls:
                self._make(now, fresh, call)
            after = self._same(self._look_again(now, fresh), piece)
        except HerderError as error:
            return Mended(debris=piece, left=error.message + _root_hint(scene, piece, error))
        return Mended(debris=piece, left="it is still there" if after is not None and after.calls else "")

    def _visit(self, chosen: Sequence[Remote]) -> tuple[dict[str, _Look], dict[str, str]]:
        """By remote: what was seen, and why something was not."""
        with ThreadPoolExecutor(max_workers=max(1, len(chosen))) as pool:
            answers = list(pool.map(self._try, chosen))
        seen = {each.name: answer for each, answer in zip(chosen, answers, strict=True) if isinstance(answer, _Look)}
        unseen = {each.name: answer for each, answer in zip(chosen, answers, strict=True) if isinstance(answer, str)}
        return seen, unseen

    def _try(self, remote: Remote) -> _Look | str:
        try:
            client = connect(
                remote, connect_timeout=self.settings.connect_timeout, read_timeout=self.settings.read_timeout
            )
            return _look_at(client)
        except HerderError as error:
            return error.message

    def _known(self, ids: Iterable[str]) -> dict[str, Job]:
        return {job_id: job for job_id in sorted(ids) if (job := self.jobs.job(job_id)) is not None}

    def _awaited(self, remotes: Iterable[str]) -> frozenset[str]:
        return frozenset(ref.id for remote in remotes for ref in self.operations.waiting(remote))

    def _same(self, scene: Scene, piece: Debris) -> Debris | None:
        return next((each for each in self.find(scene) if each.place == piece.place), None)

    def _look_again(self, scene: Scene, piece: Debris) -> Scene:
        """The scene with everything fresh that this piece rests on. Raises ServerUnreachable."""
        related = kin(scene, piece)
        servers = dict(scene.fleet.servers)
        for found in related:
            servers[found.remote] = _refreshed(servers[found.remote], found, self._clients[found.remote])
        client, there = self._clients[piece.server], servers[piece.server]
        profiles = {each.name: each for each in client.profiles(project=piece.project)}
        servers[piece.server] = replace(there, profiles={**there.profiles, piece.project: profiles})
        places = {(piece.server, piece.project), *((each.remote, each.instance.project) for each in related)}
        fresh = {(remote, project): self._clients[remote].operations(project=project) for remote, project in places}
        fleet = Fleet(seen_at=datetime.now(UTC), servers=servers)
        backed = [_volume(call) for call in piece.calls if call.action is Action.DELETE_BACKUP]
        backups = {_key(piece.server, each): _backups_of(client, each) for each in backed}
        involved = {piece.job, *(_job(servers, each) for each in related), *scene.jobs.keys()} - {""}
        return replace(
            scene,
            fleet=fleet,
            jobs=self._known(involved),
            operations={**scene.operations, **fresh},
            awaited=self._awaited(self.remotes.known),
            backups={**scene.backups, **backups},
        )

    def _make(self, scene: Scene, piece: Debris, call: Call) -> None:
        """One call, to its end. Raises what the server says."""
        client = self._clients[piece.server]
        match call.action:
            case Action.DELETE:
                _await(client, client.delete(call.name, project=call.project))
            case Action.DELETE_SNAPSHOT:
                _await(client, client.delete_snapshot(call.name, call.snapshot, project=call.project))
            case Action.DELETE_PROFILE:
                client.delete_profile(call.name, project=call.project)
            case Action.DELETE_BACKUP:
                _await(client, client.drop_volume_backup(_volume(call), call.name))
            case Action.CANCEL:
                client.cancel(call.name)
                client.wait(call.name, timeout_seconds=_WAIT_SECONDS)
            case Action.STOP:
                _await(client, client.force_stop(call.name, project=call.project))
            case Action.PATCH:
                _patch(client, scene.fleet.servers[piece.server].instance(call.project, call.name), call)


def has_server(remote: Remote) -> bool:
    """False for a socket of this machine that is not there: then nobody has meant it."""
    return not remote.address.startswith("unix://") or Path(remote.address.removeprefix("unix://")).exists()


def _look_at(client: LxdClient) -> _Look:
    info = client.info()
    if not info.trusted:
        raise NotTrusted(f"{client.remote}: the server does not trust our client certificate")
    projects = client.projects()
    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        instances = tuple(pool.map(lambda each: _with_snapshots(client, each), client.instances(None)))
        operations = dict(zip(projects, pool.map(lambda each: client.operations(project=each), projects), strict=True))
        profiles = dict(zip(projects, pool.map(lambda each: client.profiles(project=each), projects), strict=True))
        idle = [each for each in instances if not _is_under_way(each, operations[each.project])]
        doubtful = [each for each in idle if may_lack_data(each)]
        has_files = list(pool.map(lambda each: _has_files(client, each), doubtful))
        retired = [each for each in instances if each.is_retired]
        sizes = list(pool.map(lambda each: client.used_space(each.name, project=each.project), retired))
        found = [each for shown in pool.map(lambda each: client.volumes(project=each), projects) for each in shown]
        volumes = {(each.pool, each.project, each.name): each for each in found}
        # No job makes backups of what is in a cluster, whose members may have volumes of the same name.
        has_backups = info.extensions >= VOLUME_BACKUP_EXTENSIONS and not info.clustered
        carried = list(own_volumes(volumes)) if has_backups else []
        backups = list(pool.map(lambda each: _backups_of(client, each), carried))
    return _Look(
        client=client,
        server=Server(
            remote=client.remote,
            info=info,
            projects=projects,
            instances=instances,
            pools={pool.name: pool for pool in client.pools()},
            profiles={project: {each.name: each for each in found} for project, found in profiles.items()},
            volumes=volumes,
        ),
        operations=operations,
        phantoms=frozenset(
            (client.remote, each.project, each.name) for each, has in zip(doubtful, has_files, strict=True) if not has
        ),
        used={(client.remote, i.project, i.name): size for i, size in zip(retired, sizes, strict=True)},
        backups={_key(client.remote, each): names for each, names in zip(carried, backups, strict=True) if names},
    )


def _key(remote: str, volume: Volume) -> tuple[str, str, str, str]:
    return (remote, volume.pool, volume.project, volume.name)


def _volume(call: Call) -> Volume:
    return Volume(pool=call.pool, name=call.volume, project=call.project)


def _backups_of(client: LxdClient, volume: Volume) -> frozenset[str]:
    try:
        return client.volume_backups(volume)
    except NotFound:  # it went while we looked
        return frozenset()


def _with_snapshots(client: LxdClient, instance: Instance) -> Instance:
    if instance.status == "Error":  # its member of a cluster is down, and to ask for it would take 10 s
        return instance
    try:
        return replace(instance, snapshots=client.snapshots(instance.name, project=instance.project))
    except NotFound:  # it went while we looked
        return instance


def _is_under_way(instance: Instance, operations: Iterable[Operation]) -> bool:
    """Whether its server does something with it: Incus answers no look into a copy before that has ended."""
    return any(instance.name in each.instances for each in operations if not each.is_finished)


def _has_files(client: LxdClient, instance: Instance) -> bool:
    try:
        return client.has_files(instance.name, project=instance.project)
    except ServerRefused:  # another reason than a missing directory proves nothing
        return True


def _partners(looks: Iterable[_Look]) -> set[str]:
    """Remotes that marks name as the other side."""
    servers = [look.server for look in looks]
    marks = [each.marks for server in servers for each in server.instances]
    marks += [each.marks for server in servers for each in server.volumes.values()]
    told = (of_one.get(side, "") for of_one in marks for side in ("source", "target"))
    return {place.partition(":")[0] for place in told if place}


def _without_aliases(looks: Mapping[str, _Look]) -> tuple[dict[str, _Look], dict[str, str]]:
    """Each server once: one that is known under two names would have everything twice."""
    kept: dict[str, _Look] = {}
    aliases: dict[str, str] = {}
    by_certificate: dict[str, str] = {}
    for name, look in looks.items():
        certificate = look.server.info.certificate
        if certificate and certificate in by_certificate:
            aliases[name] = by_certificate[certificate]
        else:
            kept[name] = look
            by_certificate[certificate] = name
    return kept, aliases


def _refreshed(server: Server, found: Found, client: LxdClient) -> Server:
    """The server with one instance as it is now, with its ETag; without it if it is gone."""
    name, project = found.instance.name, found.instance.project
    others = [each for each in server.instances if (each.project, each.name) != (project, name)]
    try:
        now = client.instance(name, project=project)
    except NotFound:
        return replace(server, instances=tuple(others))
    return replace(server, instances=(*others, _with_snapshots(client, now)))


def _job(servers: Mapping[str, Server], found: Found) -> str:
    now = servers[found.remote].instance(found.instance.project, found.instance.name)
    return now.marks.get("job", "") if now else ""


def _why_not(fresh: Debris | None, shown: Debris) -> str:
    if fresh is None:
        return ""
    if not fresh.is_mendable:
        return fresh.held or "there is nothing to do any more"
    return "" if all(call in shown.calls for call in fresh.calls) else "it has changed since it was shown; look again"


def _why_it_moves(before: Scene, now: Scene, piece: Debris) -> str:
    """A transfer that sends bytes is not stuck, however old it is."""
    if piece.kind is not Kind.OPERATION:
        return ""
    sent = [_progress(scene, piece) for scene in (before, now)]
    return f"it moves: {sent[1]}" if sent[0] != sent[1] else ""


def _root_hint(scene: Scene, piece: Debris, error: HerderError) -> str:
    if _NO_SUBVOLUME not in error.message:
        return ""
    wreck = scene.fleet.servers[piece.server].instance(piece.project, piece.instance)
    return f"; {as_root(Found(piece.server, wreck))}" if wreck else ""


def _progress(scene: Scene, piece: Debris) -> str:
    running = scene.operations.get((piece.server, piece.project), ())
    return next((str(each.metadata.get("fs_progress")) for each in running if each.id == piece.subject), "")


def _patch(client: LxdClient, seen: Instance | None, call: Call) -> None:
    """Only if it is as it was when it was looked at; its server may still be busy with what came before."""
    again = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(ServerBusy),
        wait=tenacity.wait_fixed(0.05),
        stop=tenacity.stop_after_delay(2),
        reraise=True,
    )
    again(client.patch, call.name, config=call.config, profiles=call.profiles, project=call.project, seen=seen)


def _await(client: LxdClient, operation: str) -> None:
    """Its success. Raises ServerRefused with the server's words; one that was forgotten is judged by the next look."""
    deadline = datetime.now(UTC) + _PATIENCE
    while True:
        now = client.wait(operation, timeout_seconds=_WAIT_SECONDS)
        if now is None or now.succeeded:
            return
        if now.is_finished:
            raise ServerRefused(f"{client.remote}: {now.error}")
        if datetime.now(UTC) > deadline:
            raise ServerBusy(f"{client.remote}: '{now.description}' has not ended after {_PATIENCE}")
