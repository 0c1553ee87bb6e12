"""What was left of an instance, and in it: copies, wrecks, retired sources, marks, snapshots."""

from collections.abc import Iterator
from datetime import UTC, datetime

from common.domain.drill import DRILLED
from common.domain.generation import MAKING, is_backup_snapshot
from common.domain.instance import (
    BACKUP_STATE,
    COPY_OF,
    GUARD_DEVICE,
    HOOK_MARK,
    MARK_PREFIX,
    REFRESHED,
    STALE_ROLE,
    Instance,
)
from common.domain.job import State
from common.domain.units import render_duration, render_size
from producer.debris.eye import RECOVER, Eye, is_source, uuid_of
from producer.debris.scene import SNAPSHOT, WRECK, Action, Call, Debris, Found, Kind, is_temporary, job_in

_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


_PROTECTION = "security.protection.delete"


def may_lack_data(instance: Instance) -> bool:
    """Whether its record looks like that of a transfer that never ended: only then is it worth a look into it."""
    was_made = instance.config.get("volatile.apply_template") in ("copy", "create")
    return instance.is_stopped and instance.last_used_at == _NEVER and not was_made and instance.type == "container"


def _delete(found: Found) -> tuple[Call, ...]:
    name, project = found.instance.name, found.instance.project
    return (Call(action=Action.DELETE, name=name, project=project),)


def about_instance(eye: Eye, found: Found) -> Debris | None:
    """The instance as a whole: at most one kind of debris."""
    instance = found.instance
    job = instance.marks.get("job", "") or job_in(WRECK, instance.name)
    # Between its runs a staging copy is nobody's, and a generation always is.
    is_at_rest = instance.config.get(BACKUP_STATE, MAKING) not in (MAKING, DRILLED)
    is_at_rest = is_at_rest and not WRECK.fullmatch(instance.name)
    if is_at_rest or (job and eye.is_at_work(job)):
        return None
    if is_temporary(instance):
        return _temporary(eye, found)
    if job:
        return _wreck(eye, found, job) if WRECK.fullmatch(instance.name) else _marked(eye, found, job)
    if instance.is_guarded and GUARD_DEVICE in instance.devices:
        return _guarded_without_marks(eye, found)
    if found.key in eye.scene.phantoms and not eye.busy(found):
        return _foreign_phantom(eye, found)
    hook = instance.marks.get(HOOK_MARK, "")
    return _left_quiet(eye, found, hook) if hook and not eye.is_at_work(hook) else None


def piece_of(kind: Kind, found: Found, proof: str, **more: object) -> Debris:
    """A piece about this instance; ``more`` are other fields of it."""
    about = {"server": found.remote, "subject": found.instance.name, "instance": found.instance.name}
    return Debris(kind=kind, proof=proof, project=found.instance.project, **(about | more))  # type: ignore[arg-type]


def _marked(eye: Eye, found: Found, job: str) -> Debris:
    instance = found.instance
    if instance.config.get(BACKUP_STATE) == DRILLED:
        return _clone_of_drill(eye, found, job)
    if is_source(instance, job):
        return _left_source(eye, found, job)
    is_unfinished = instance.is_guarded or instance.marks.get("state") in ("receiving", "complete")
    if is_unfinished and not instance.is_running:
        return _half(eye, found, job)
    return _marks(eye, found, job)


def _half(eye: Eye, found: Found, job: str) -> Debris:
    """A copy that was never handed over: the source is the instance."""
    instance = found.instance
    sources = eye.origins(job)
    state = instance.marks.get("state", "unknown")
    guarded = ", guarded" if instance.is_guarded else ""
    good = f"its source {sources[0]} is {sources[0].instance.status}" if sources else "no source of it was seen"
    proof = f"state {state}{guarded}, {instance.status}; {eye.how_it_stands(job)}; {good}"
    held = eye.hold(job)
    # Of a move it may be all there is. The source of a copy is never touched.
    whole = [each for each in sources if each.instance.is_running and uuid_of(each.instance) == uuid_of(instance)]
    if not held and not whole and COPY_OF not in instance.config:
        held = "no source with its uuid runs, so it may be the only copy"
    if not held and instance.marks.get(REFRESHED):
        held = "it was there before its refresh, or is what was kept of it; `herder recover` goes on with the job"
    if found.key in eye.scene.phantoms and _needs_root(eye, found) and not eye.busy(found):
        proof += "; its root directory is not there, and on btrfs LXD cannot delete it"
        return piece_of(Kind.PHANTOM, found, proof, job=job, held=held, hint=as_root(found))
    return piece_of(
        Kind.HALF,
        found,
        proof,
        job=job,
        calls=_delete(found),
        risk="none as long as the source is whole: what was copied has to be copied again",
        held=held,
        hint=f"`herder recover` may go on from it, if job {job} was lost with Redis" if not held else "",
    )


def _pool_driver(eye: Eye, found: Found) -> str:
    pool = eye.scene.fleet.servers[found.remote].pools.get(found.instance.root_pool)
    return pool.driver if pool else ""


def _needs_root(eye: Eye, found: Found) -> bool:
    """LXD 5.0.2 on btrfs can delete a wreck only if it has no snapshots; a renamed one had them."""
    is_aside = bool(WRECK.fullmatch(found.instance.name))
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


def _wreck(eye: Eye, found: Found, job: str) -> Debris:
    proof = f"its name says that job {job} has set it aside; {eye.how_it_stands(job)}"
    held = eye.hold(job) or eye.busy(found)
    if found.instance.is_running:
        held = "it runs"
    if _needs_root(eye, found):
        proof += "; on btrfs LXD cannot delete it"
        return piece_of(Kind.WRECK, found, proof, job=job, held=held, hint=as_root(found))
    return piece_of(Kind.WRECK, found, proof, job=job, calls=_delete(found), risk="none: it is no instance", held=held)


def _clone_of_drill(eye: Eye, found: Found, job: str) -> Debris:
    """It was made to be thrown away, whether it runs or not: nothing else bears what it is."""
    name, project, known = found.instance.name, found.instance.project, eye.scene.jobs.get(job)
    of = found.instance.marks.get("source", "a generation")
    stop = (Call(action=Action.STOP, name=name, project=project),) if not found.instance.is_stopped else ()
    is_parked = known is not None and known.state is State.PARKED
    return piece_of(
        Kind.DRILL,
        found,
        f"the clone that a drill has made of {of}, {found.instance.status}; {eye.how_it_stands(job)}",
        job=job,
        calls=(*stop, *_delete(found)),
        risk="none: the generation is another instance",
        held=eye.hold(job) if is_parked else eye.busy(found),
    )


def _foreign_phantom(eye: Eye, found: Found) -> Debris:
    proof = "it was never started, and its root directory is not there: what a killed server leaves of a transfer"
    if _needs_root(eye, found):
        return piece_of(Kind.PHANTOM, found, proof, hint=as_root(found))
    in_project = "" if found.instance.project == "default" else f" --project {found.instance.project}"
    hint = f"nothing shows that it is herder's or LXD's own; if it is nobody's: lxc delete{in_project} {found}"
    return piece_of(Kind.PHANTOM, found, proof, hint=hint)


def _temporary(eye: Eye, found: Found) -> Debris:
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
        return piece_of(Kind.TEMPORARY, found, proof, held=held, hint=as_root(found))
    name, project = instance.name, instance.project
    unprotect = (Call(action=Action.PATCH, name=name, project=project, config={_PROTECTION: "false"}),)
    return piece_of(
        Kind.TEMPORARY,
        found,
        proof,
        calls=(*(unprotect if instance.expanded_config.get(_PROTECTION) == "true" else ()), *_delete(found)),
        risk="none as long as the original is whole",
        held=held,
        hint="" if originals else f"look into it; `lxc rename {found} NAME` gives it its name back",
    )


def _left_source(eye: Eye, found: Found, job: str) -> Debris:
    """Retired, as good as retired, in the middle of a cutover, or just marked."""
    is_passed_on = found.instance.is_guarded and found.instance.is_stopped and bool(eye.running_copies(job))
    return _retired(eye, found, job) if found.instance.is_retired or is_passed_on else _marks(eye, found, job)


def _retired(eye: Eye, found: Found, job: str) -> Debris:
    instance, known = found.instance, eye.scene.jobs.get(job)
    if instance.marks.get("role") == STALE_ROLE:
        held = "a failover has kept it: what was written here since its backup is on no other server"
        hint = f"take what you need of it, then `lxc delete {found}`"
        return piece_of(Kind.RETIRED, found, f"job {job} has failed it over", job=job, held=held, hint=hint)
    running = [each for each in eye.twins(found) if each.instance.is_running]
    if not running:
        where = instance.marks.get("target", "its target")
        held = eye.unseen(where) or "no running instance with its uuid was seen: it may be the only good copy"
        return piece_of(Kind.RETIRED, found, f"job {job} retired it; {where} does not run", job=job, held=held)
    twin = running[0]
    since = (known.finished_at if known else None) or twin.instance.created_at
    took = f", takes {render_size(eye.scene.used[found.key])}" if eye.scene.used.get(found.key) else ""
    done = "retired after its target was verified" if instance.is_retired else "guarded, but never retired"
    age = render_duration(eye.scene.fleet.seen_at - since)
    return piece_of(
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
        s.name for s in found.instance.snapshots or () if s.name not in there and not SNAPSHOT.fullmatch(s.name)
    ]
    lost = f"; lost with it are the snapshots that only it has: {', '.join(only_here)}" if only_here else ""
    return f"no way back: {twin} is the only one then{lost}"


def _why_keep(eye: Eye, found: Found) -> str:
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


def _guarded_without_marks(eye: Eye, found: Found) -> Debris:
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
    return piece_of(
        Kind.HALF,
        found,
        proof,
        calls=_delete(found),
        risk="none as long as the other one is whole",
        held=held,
        hint=f"if it shall run: `lxc config device remove {found} {GUARD_DEVICE}`" if held else "",
    )


def _marks(eye: Eye, found: Found, job: str) -> Debris:
    instance = found.instance
    proof = f"marks of job {job} ({', '.join(sorted(instance.marks))}); {instance.status}; {eye.how_it_stands(job)}"
    keys = {MARK_PREFIX + name: "" for name in sorted(instance.marks)}
    profiles = instance.own_profiles if instance.own_profiles != instance.profiles else None
    call = Call(action=Action.PATCH, name=instance.name, project=instance.project, config=keys, profiles=profiles)
    return piece_of(
        Kind.MARKS,
        found,
        proof,
        job=job,
        calls=(call,),
        risk=f"none on the instance; `herder recover` cannot rebuild job {job} any more",
        held=eye.hold(job) or _why_marked(eye, found, job),
    )


def _left_quiet(eye: Eye, found: Found, job: str) -> Debris:
    """The lines are known to the policy alone: whoever has that ends it, and then the mark goes."""
    key = MARK_PREFIX + HOOK_MARK
    known = eye.scene.jobs.get(job)
    return piece_of(
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


def _why_marked(eye: Eye, found: Found, job: str) -> str:
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
        return f"it is guarded; {RECOVER}"
    return ""


#: Their deletion takes their snapshots with it.
GO_WITH_THEIR_SNAPSHOTS = frozenset({Kind.HALF, Kind.WRECK, Kind.PHANTOM, Kind.TEMPORARY})


def left_snapshots(eye: Eye, *, going: set[tuple[str, str, str]]) -> Iterator[Debris]:
    """Of jobs that are not at work, but for those of instances that are ``going`` themselves."""
    for found in eye.all:
        if found.key in going:
            continue
        for snapshot in found.instance.snapshots or ():
            job = job_in(SNAPSHOT, snapshot.name)
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
            yield piece_of(
                Kind.SNAPSHOT,
                found,
                f"its name says that it is of job {job}; {eye.how_it_stands(job)}",
                subject=f"{found.instance.name}/{snapshot.name}",
                job=job,
                calls=(call,),
                risk="the next refresh of this instance sends all of it",
                held=eye.hold(job) or (eye.hold(holder) if holder else "") or eye.busy(found),
            )
