"""An export: the server writes a backup file, this process carries it into the archive, and the manifest makes it one.

The source goes on and is not touched. The backup on the server bears the job's name and expires by itself.
"""

from datetime import UTC, timedelta
from typing import Any

from common.archive.stream import Incoming
from common.domain.archive import Format, Manifest, room_needed
from common.domain.eligibility import POOL_RESERVE
from common.domain.errors import ArchiveRefused, NotFound, OutOfSpace, TransferFailed, VerificationFailed
from common.domain.job import Kind, Outcome
from common.domain.operation import Operation
from common.domain.units import render_size
from common.lxd import tls
from workers.steps.context import Context
from workers.steps.exported_clone import drop_clone_of_snapshot, exported_snapshot, make_clone
from workers.steps.streams import CancelledMeanwhile, kept_alive, permit, sent, wait_for_permit

#: Should nobody ever come back to this job, its backup does not fill the server for ever.
_EXPIRES_AFTER = timedelta(days=3)
_ROOM_RETRY = timedelta(seconds=30)
_BACKING_UP = "Backing up instance"
_FULL = "no space left on device"


def backup_name(ctx: Context) -> str:
    """The backup's name on the server."""
    return f"herder-{ctx.job.id}"


def check_archive(ctx: Context) -> Outcome:
    """Workers can write to the archive, and it has no other export of this name."""
    archive = ctx.archive
    if is_exported(ctx):
        return Outcome.completed()
    archive.check_writable()
    # The name of a generation belongs to its run: without a manifest it is what a job of that run has left.
    is_free = ctx.job.facts.get("name_was_free") or ctx.move.backup or archive.size(ctx.move.file) is None
    if not is_free:
        raise ArchiveRefused(
            f"{archive.where} has a file {ctx.move.file} already, and an export is never overwritten",
            hint="export once more, which gives the file a later time",
        )
    return Outcome.completed(name_was_free=True)


def make_backup(ctx: Context) -> Outcome:
    """The whole backup file is on the server.

    A backup that is there proves nothing, for a killed server leaves half of one: only the success of its operation.
    """
    if is_exported(ctx) or is_there(ctx):
        return Outcome.completed()
    if "backup" not in ctx.job.evidence:
        in_the_way = make_clone(ctx) if ctx.move.exports_clone else None
        in_the_way = in_the_way or _clear_the_way(ctx) or _wait_for_room(ctx)
        if in_the_way is not None:
            return in_the_way
        ctx.note(described=_described(ctx))
    ended = ctx.settle(
        "backup",
        lambda: ctx.on_source(
            ctx.source.create_backup(
                ctx.move.exported,
                backup_name(ctx),
                expires_at=ctx.now() + _EXPIRES_AFTER,
                instance_only=ctx.move.overrides.instance_only,
                optimized=ctx.move.policy.optimized,
                compression=ctx.move.policy.compression,
                project=ctx.move.project,
            )
        ),
        blocked_on=f"the backup on {ctx.move.source}",
    )
    if isinstance(ended, Outcome):
        return ended
    ctx.forget("backup")
    if ended is None:
        # The server has forgotten how it ended; what is there is cleared away, and a new one made.
        return Outcome.again(evidence=ctx.job.evidence)
    if ended.succeeded and ctx.move.exports_clone:
        return Outcome.completed()
    if ended.succeeded:
        return Outcome.completed(described=_unchanged(ctx.job.facts["described"], _described(ctx)))
    if _FULL in ended.error.lower():
        raise OutOfSpace(
            f"{ctx.move.source}: backup of {ctx.move.instance}: {ended.error}",
            hint=f"free or add space where {ctx.move.source} keeps its backups, then `herder retry`",
        )
    raise TransferFailed(f"{ctx.move.source}: backup of {ctx.move.instance}: {ended.error}")


def _clear_the_way(ctx: Context) -> Outcome | None:
    """What an earlier try has left goes; None when it has gone. One that is being made is waited for."""
    making = _being_made(ctx)
    if making is not None:
        evidence = {"remote": ctx.move.source, "id": making.id, "project": ctx.move.project}
        return Outcome.again(evidence={**ctx.job.evidence, "backup": evidence})
    return _delete(ctx)


def _being_made(ctx: Context) -> Operation | None:
    wanted = f"/{backup_name(ctx)}"
    for operation in ctx.source.operations(project=ctx.move.project):
        paths = operation.resources.get("backups", ())
        if not operation.is_finished and _BACKING_UP in operation.description:
            is_ours = any(path.endswith(wanted) for path in paths)
            if is_ours or (not paths and ctx.move.exported in operation.instances):
                return operation
    return None


def _wait_for_room(ctx: Context) -> Outcome | None:
    """The plan was refused if there was too little; other backups may have come in between, and go again."""
    room = ctx.source.room_for_backups()
    if room is None:
        return None
    used = ctx.source.used_space(ctx.move.exported, project=ctx.move.project)
    snapshots = len(ctx.source.snapshots(ctx.move.exported, project=ctx.move.project))
    needed = room_needed(used, snapshots, optimized=ctx.move.policy.optimized) + POOL_RESERVE
    if room.free >= needed:
        return None
    what = (
        f"room for a backup on {ctx.move.source}: {render_size(needed)} in {room.place}, {render_size(room.free)} free"
    )
    return Outcome.wait(what, retry_in=_ROOM_RETRY, evidence=ctx.job.evidence)


def stream_backup(ctx: Context) -> Outcome:
    """The backup file is in the archive, whole; until then it has no name there."""
    if is_exported(ctx) or is_there(ctx):
        return _carried(ctx)
    if "backup" in ctx.job.evidence or not ctx.source.has_backup(
        ctx.move.exported, backup_name(ctx), project=ctx.move.project
    ):
        # It has expired, or somebody has removed it.
        made = make_backup(ctx)
        return made if made.kind is not Kind.COMPLETED else Outcome.again()
    with permit(ctx) as may_carry:
        if not may_carry:
            return wait_for_permit(ctx)
        try:
            _carry(ctx)
        except CancelledMeanwhile:
            return Outcome.again(evidence=ctx.job.evidence)
    return _carried(ctx)


def _carry(ctx: Context) -> None:
    def on_whole(size: int, checksum: str) -> None:
        # Written down before it gets its name, so that it is known again: the name alone would prove nothing.
        ctx.note(whole={"size": size, "sha256": checksum})

    if ctx.archive.size(ctx.move.file) is not None:
        # Its name was free, so it is ours, and whole; but Redis has lost its checksum.
        ctx.confirm_fence()
        ctx.archive.discard(ctx.move.file)
    ctx.note(evidence={"since": ctx.now().isoformat()})
    with ctx.source.read_backup(ctx.move.exported, backup_name(ctx), project=ctx.move.project) as (size, pieces):
        ctx.archive.write(ctx.move.file, Incoming(pieces, size, on_piece=kept_alive(ctx), on_whole=on_whole))


def is_there(ctx: Context) -> bool:
    """Whether the backup file is in the archive as this job has written it."""
    whole = ctx.job.facts.get("whole")
    return whole is not None and ctx.archive.size(ctx.move.file) == whole["size"]


def _carried(ctx: Context) -> Outcome:
    whole = ctx.job.facts.get("whole") or {}
    size = int(whole.get("size", 0))
    return Outcome.completed(finished_pass=sent("export", size, ctx.job.evidence.get("since", ""), ctx.now()))


def write_manifest(ctx: Context) -> Outcome:
    """The commit point: from here on it is an export."""
    if is_exported(ctx):
        return Outcome.completed()
    if not is_there(ctx):
        raise VerificationFailed(
            f"{ctx.archive.where}: {ctx.move.file} is not there any more as it was written",
            hint="somebody has removed or changed it; `herder retry` exports it once more",
        )
    manifest = manifest_of(ctx)
    ctx.confirm_fence()
    ctx.archive.write_manifest(manifest)
    return Outcome.completed()


def _described(ctx: Context) -> dict[str, Any]:
    """The instance as it is now, or as it was at its run's snapshot, for the manifest."""
    now = ctx.source_instance()
    instance = exported_snapshot(ctx) if ctx.move.exports_clone else now
    drivers = {pool.name: pool.driver for pool in ctx.source.pools()}
    only = ctx.move.overrides.instance_only
    snapshots = () if only else ctx.source.snapshots(instance.name, project=instance.project)
    return {
        "type": now.type,
        "architecture": instance.architecture,
        "description": now.description,
        "profiles": list(instance.own_profiles),
        "config": {**instance.own_config, **instance.identity},
        "devices": {name: dict(device) for name, device in instance.own_devices.items()},
        "pool": now.root_pool,
        "driver": drivers.get(now.root_pool, ""),
        "snapshots": [snapshot.name for snapshot in snapshots],
    }


def _unchanged(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What was there before and after the backup, and so is in it."""
    config = {key: value for key, value in before["config"].items() if after["config"].get(key) == value}
    snapshots = [name for name in before["snapshots"] if name in after["snapshots"]]
    return {**before, "config": config, "snapshots": snapshots}


def manifest_of(ctx: Context) -> Manifest:
    """What the manifest of this job's export says. It was carried already."""
    whole, described = ctx.job.facts["whole"], ctx.job.facts["described"]
    order = ctx.move.backup
    return Manifest(
        file=ctx.move.file,
        instance=ctx.move.instance,
        project=ctx.move.project,
        source=ctx.move.source,
        fingerprint=_fingerprint(ctx),
        job=ctx.job.id,
        created_at=ctx.now(),
        size=whole["size"],
        sha256=whole["sha256"],
        format=Format(
            optimized=ctx.move.policy.optimized,
            driver=described["driver"],
            compression=ctx.move.policy.compression,
            instance_only=ctx.move.overrides.instance_only,
        ),
        type=described["type"],
        architecture=described["architecture"],
        description=described["description"],
        profiles=tuple(described["profiles"]),
        config=described["config"],
        devices=described["devices"],
        pool=described["pool"],
        snapshots=tuple(described["snapshots"]),
        of_snapshot=ctx.move.order.snapshot if ctx.move.exports_clone else "",
        policy=order.policy if order else "",
        at=order.at.astimezone(UTC) if order else None,
    )


def is_exported(ctx: Context) -> bool:
    """Whether the manifest is there, and ours. Raises ArchiveRefused if it is another one's."""
    manifest = ctx.archive.manifest(ctx.move.file)
    if manifest is not None and manifest.job != ctx.job.id and not _is_of_this_run(ctx, manifest):
        raise ArchiveRefused(
            f"{ctx.archive.where}: {ctx.move.file} is the export of job {manifest.job}, and never overwritten",
            hint="export once more, which gives the file a later time",
        )
    return manifest is not None


def _is_of_this_run(ctx: Context, manifest: Manifest) -> bool:
    """Whether it is the generation that this job makes: should Redis be lost, another job of the run has made it."""
    if ctx.move.backup is None:
        return False
    its_run = (manifest.policy, manifest.origin, manifest.at, manifest.fingerprint)
    return its_run == (ctx.move.order.policy, ctx.move.origin, ctx.move.order.at, _fingerprint(ctx))


def _fingerprint(ctx: Context) -> str:
    certificate = ctx.source.info().certificate
    return tls.fingerprint(certificate) if certificate else ""


def drop_backup(ctx: Context) -> Outcome:
    """The backup leaves the server; one that is still being made cannot be cancelled, and is waited for."""
    making = _being_made(ctx)
    if making is not None:
        blocked_on = f"the end of the backup on {ctx.move.source}, which cannot be cancelled"
        return ctx.wait_for(ctx.on_source(making.id), blocked_on=blocked_on)
    dropped = _delete(ctx) or (drop_clone_of_snapshot(ctx) if ctx.move.exports_clone else None)
    return dropped or Outcome.completed()


def _delete(ctx: Context) -> Outcome | None:
    """None when there is no backup of this job on the server."""
    if not ctx.source.has_backup(ctx.move.exported, backup_name(ctx), project=ctx.move.project):
        ctx.forget("drop")
        return None
    try:
        ended = ctx.settle(
            "drop",
            lambda: ctx.on_source(
                ctx.source.delete_backup(ctx.move.exported, backup_name(ctx), project=ctx.move.project)
            ),
            blocked_on=f"the removal of the backup on {ctx.move.source}",
        )
    except NotFound:
        ended = None
    if isinstance(ended, Outcome):
        return ended
    ctx.forget("drop")
    if ended is not None and not ended.succeeded:
        raise TransferFailed(f"{ctx.move.source}: removal of backup {backup_name(ctx)}: {ended.error}")
    return Outcome.again(evidence=ctx.job.evidence)


def discard_export(ctx: Context) -> Outcome:
    """Nothing of it stays in the archive; with its manifest there it is an export, and only goes forward."""
    if is_exported(ctx):
        return Outcome.goes_forward()
    if ctx.job.facts.get("name_was_free"):
        ctx.confirm_fence()
        ctx.archive.discard(ctx.move.file)
    return Outcome.completed()
