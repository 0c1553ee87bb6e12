"""What was left of custom volumes, and of their backups."""

from collections.abc import Iterator

from common.domain.instance import (
    MARK_PREFIX,
)
from common.domain.volume import Volume, Volumes
from producer.debris.eye import Eye
from producer.debris.scene import BESIDE, IMPORT, SNAPSHOT, Action, Call, Debris, Kind, job_in, job_of_volume


def left_volumes(eye: Eye) -> Iterator[Debris]:
    """Told, and never touched: no server tells what is in a volume, nor when somebody wrote into it."""
    for remote, server in sorted(eye.scene.fleet.servers.items()):
        for volume in sorted(own_volumes(server.volumes), key=lambda each: (each.project, each.place)):
            job = job_of_volume(volume)
            users = volume.other_users(project=volume.project)
            if not job or eye.is_at_work(job) or (volume.is_retired and users):
                continue  # a retired one goes with the retired instance that attaches it
            is_import = bool(job_in(IMPORT, volume.name))
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


def _about_left_volume(eye: Eye, remote: str, volume: Volume, job: str) -> str:
    delete = f"`lxc storage volume delete {remote}:{volume.pool} {volume.name} --project {volume.project}`"
    if IMPORT.fullmatch(volume.name):
        return f"{delete}: it was being made of a backup, and nobody knows whether it is whole"
    if volume.is_retired:
        return f"{delete} when it is not needed any more"
    if not volume.marks:
        beside = BESIDE.fullmatch(volume.name)
        of = f"{volume.pool}/{beside['name']}" if beside else volume.place
        return f"what {of} was before a refresh that broke, if there is none now: rename it; else {delete}"
    if job not in eye.scene.jobs:
        return f"`herder recover` goes on with its job; if it cannot: {_without_marks(remote, volume)}"
    return f"{delete}, or keep it: {_without_marks(remote, volume)}"


def _without_marks(remote: str, volume: Volume) -> str:
    unset = f"`lxc storage volume unset {remote}:{volume.pool} {volume.name} KEY`"
    return f"{unset} for each of its {MARK_PREFIX}* keys"


def own_volumes(volumes: Volumes) -> Iterator[Volume]:
    """Each once: a project without volumes of its own shows those of the default one."""
    for (pool, project, name), volume in volumes.items():
        default = volumes.get((pool, "default", name))
        if project == "default" or default is None or default.config != volume.config:
            yield volume


def left_backups(eye: Eye) -> Iterator[Debris]:
    """What a job has carried a volume with; it makes another one, should it go on after all."""
    for (remote, pool, project, name), backups in sorted(eye.scene.backups.items()):
        for backup in sorted(backups):
            job = job_in(SNAPSHOT, backup)
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
