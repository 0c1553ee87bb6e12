"""Everything that was left on servers, and what a decision about one piece of it rests on."""

from collections.abc import Iterable
from datetime import timedelta

from common.domain.fleet import Fleet
from common.domain.generation import is_backup_snapshot
from common.domain.instance import (
    HOOK_MARK,
)
from producer.debris.eye import Eye
from producer.debris.instances import GO_WITH_THEIR_SNAPSHOTS, about_instance, left_snapshots
from producer.debris.others import doubles, left_profiles, stuck_operations
from producer.debris.scene import (
    SNAPSHOT,
    WRECK,
    Debris,
    Found,
    Kind,
    Scene,
    is_temporary,
    job_in,
    job_of_profile,
    job_of_volume,
)
from producer.debris.volumes import left_backups, left_volumes


def find_debris(scene: Scene, *, stuck_after: timedelta) -> list[Debris]:
    """Everything that was left, by kind; transfers count as stuck when they are older than ``stuck_after``."""
    eye = Eye(scene)
    wholes = {each.key: piece for each in eye.all for piece in (about_instance(eye, each),) if piece is not None}
    found = [
        *stuck_operations(eye, stuck_after),
        *wholes.values(),
        *left_snapshots(eye, going={key for key, piece in wholes.items() if piece.kind in GO_WITH_THEIR_SNAPSHOTS}),
        *left_profiles(eye),
        *doubles(eye),
        *left_volumes(eye),
        *left_backups(eye),
    ]
    order = list(Kind)
    return sorted(found, key=lambda piece: (order.index(piece.kind), piece.server, piece.project, piece.subject))


def jobs_named(fleet: Fleet, backups: Iterable[str] = ()) -> frozenset[str]:
    """The ids of all jobs that something on the servers bears: marks, profiles, snapshots, wrecks, these backups."""
    named = {job_in(SNAPSHOT, name) for name in backups}
    for server in fleet.servers.values():
        for instance in server.instances:
            named |= {instance.marks.get("job", ""), instance.marks.get(HOOK_MARK, "")}
            of_jobs = (each.name for each in instance.snapshots or () if not is_backup_snapshot(each.name))
            named |= {job_in(SNAPSHOT, name) for name in of_jobs}
            named.add(job_in(WRECK, instance.name))
        named |= {job_of_volume(volume) for volume in server.volumes.values()}
        named |= {job_of_profile(profile) for below in server.profiles.values() for profile in below.values()}
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


def kin(scene: Scene, piece: Debris) -> tuple[Found, ...]:
    """All instances that a decision about this debris looks at: itself, those of its job, and the same machines."""
    eye = Eye(scene)
    own = [each for each in eye.all if each.key == (piece.server, piece.project, piece.instance)]
    jobs = {piece.job, *(each.instance.marks.get("job", "") for each in own)} - {""}
    first = {each.key: each for each in (*own, *(each for job in jobs for each in eye.of_job(job)))}
    for each in list(first.values()):
        first |= {other.key: other for other in (*eye.same(each), *eye.namesakes(each))}
        if is_temporary(each.instance):
            first |= {other.key: other for other in eye.originals(each)}
    return tuple(first.values())
