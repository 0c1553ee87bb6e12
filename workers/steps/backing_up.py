"""The first half of a backup: the snapshot of the run on the source, and a refresh that takes it into the staging copy.

The staging copy belongs to a policy and an instance, and one job at a time works on it; between runs it is nobody's.
Whatever happens to it, no generation is harmed: it is removed and received anew. ``generations`` has the second half.
"""

from datetime import datetime, timedelta

from common.domain.errors import (
    IdentityMismatch,
    NotFound,
    PermanentError,
    PreconditionFailed,
    ServerRefused,
    TransferFailed,
)
from common.domain.generation import BACKUP_OF, EMPTY_PROFILE
from common.domain.instance import Instance
from common.domain.job import Outcome
from common.domain.operation import Operation
from workers.steps.backed_volumes import instance_snapshots, snapshot_volumes
from workers.steps.context import Context
from workers.steps.copies import find_operation
from workers.steps.copying import RefreshImpossible, is_received, run_pass, thaw
from workers.steps.hooks import end_quiet, inherit_quiet, is_quiet, make_quiet
from workers.steps.marks import mark
from workers.steps.repair import drop_newest_snapshot, is_beyond_repair

#: LXD's word for the operation that makes a snapshot.
_SNAPSHOTTING = "snapshot"
#: How long the job of another run may do nothing with the staging copy before it is taken from it.
_PATIENCE = timedelta(minutes=2)
_SOON = timedelta(seconds=2)


def take_snapshot(ctx: Context) -> Outcome:
    """The run's snapshot is on the source; jobs of the same run onto other targets use it too."""
    failure = str(ctx.job.evidence.get("failure", ""))
    if not failure:
        try:
            waiting = _make_snapshot(ctx)
        except TransferFailed as failed:
            failure = failed.message
            ctx.note(evidence={"failure": failure})
        else:
            if waiting is not None:
                return waiting
    ending = end_quiet(ctx)
    if ending is not None:
        return ending
    if failure:
        ctx.forget("failure")
        raise TransferFailed(failure)
    return Outcome.completed()


def _make_snapshot(ctx: Context) -> Outcome | None:
    """None when it is there and finished. Raises TransferFailed."""
    name, known = ctx.move.order.snapshot, ctx.job.evidence
    if not known.keys() & {"before", "snapshot"} and name in instance_snapshots(ctx):
        return _wait_for_another(ctx) or _drop_if_broken(ctx) or inherit_quiet(ctx)
    source = ctx.source_instance()
    waiting = thaw(ctx, source)
    if waiting is None and "snapshot" not in known:
        waiting = make_quiet(ctx, source) or snapshot_volumes(ctx)
    if waiting is not None:
        return waiting
    try:
        made = ctx.settle(
            "snapshot",
            lambda: ctx.on_source(ctx.source.create_snapshot(ctx.move.instance, name, project=ctx.move.project)),
            blocked_on=f"snapshot {name} on {ctx.move.source}",
        )
    except ServerRefused as refused:
        failure = refused.message
    else:
        if isinstance(made, Outcome):
            return made
        failure = made.error if made else "no trace of it"
    ctx.forget("snapshot", "prepared", "set")
    if is_beyond_repair(failure):
        return drop_newest_snapshot(ctx)
    # A worker that died right after the request has left the snapshot, and then LXD refuses to make it again.
    if name not in instance_snapshots(ctx):
        raise TransferFailed(f"{ctx.move.source}: snapshot {name}: {failure}")
    return _wait_for_another(ctx) or (_drop_if_broken(ctx) if failure else None)


def _drop_if_broken(ctx: Context) -> Outcome | None:
    """A server that died while it made the snapshot lists one without a volume; any change of the instance tells."""
    try:
        ctx.patch_source({})
    except ServerRefused as refused:
        if not is_beyond_repair(refused.message):
            raise
        return drop_newest_snapshot(ctx)
    return None


def end_hook(ctx: Context) -> Outcome:
    """On the way back: no snapshot is being made any more, and what the hook before it has done is undone."""
    if not is_quiet(ctx):
        return Outcome.completed()
    return _wait_for_another(ctx) or end_quiet(ctx) or Outcome.completed()


def _wait_for_another(ctx: Context) -> Outcome | None:
    """A server lists a snapshot as soon as it begins to make it."""
    busy = _making_snapshot(ctx)
    if busy is None:
        return None
    return ctx.wait_for(
        ctx.on_source(busy.id), blocked_on=f"the end of '{busy.description}' on {ctx.move.source}", retry_in=_SOON
    )


def _making_snapshot(ctx: Context) -> Operation | None:
    operations = ctx.source.operations(project=ctx.move.project)
    return find_operation(tuple(o for o in operations if _SNAPSHOTTING in o.description.lower()), ctx.move.instance)


def refresh_staging(ctx: Context) -> Outcome:
    """The staging copy has the run's snapshot, and no pass is under way with it."""
    if "receive" not in ctx.job.evidence:
        staging = ctx.target_instance()
        if staging is not None and has_arrived(ctx, staging):
            return Outcome.completed()
        if ctx.move.order.snapshot not in instance_snapshots(ctx):
            raise PermanentError(
                f"{ctx.move.source}:{ctx.move.instance} has no snapshot {ctx.move.order.snapshot} any more",
                hint="the next run makes a newer backup; `herder cancel` ends this one",
            )
        claimed = _claim(ctx, staging) if staging is not None else None
        if claimed is not None:
            return claimed
        is_whole = staging is not None and is_received(staging) and not ctx.job.facts.get("copy_broken")
        kind = ctx.job.evidence.get("kind", "refresh" if is_whole else "full")
        unproven = _drop_unproven(ctx, staging) if staging is not None and kind == "refresh" else None
        if unproven is not None:
            return unproven
        _name_profiles(ctx)
        ctx.note(evidence={"kind": kind})
    try:
        passed = run_pass(ctx, ctx.job.evidence["kind"])
    except RefreshImpossible:
        # What cannot be refreshed is received anew; the generations are instances of their own.
        ctx.note(copy_broken=True)
        return Outcome.again()
    return passed if isinstance(passed, Outcome) else Outcome.completed(finished_pass=passed)


def _drop_unproven(ctx: Context, staging: Instance) -> Outcome | None:
    """A target that died in a pass keeps a row of the snapshot without its data, and takes it for the snapshot."""
    if staging.marks.get("state") == "complete" or ctx.job.facts.get("copy_broken"):
        return None
    name = ctx.move.order.snapshot
    if "unproven" not in ctx.job.evidence:
        there = ctx.target.snapshots(staging.name, project=staging.project)
        running = find_operation(ctx.target.operations(project=ctx.move.target_project), staging.name)
        if running is not None or name not in {each.name for each in there}:
            return None
    try:
        ended = ctx.settle(
            "unproven",
            lambda: ctx.on_target(ctx.target.delete_snapshot(staging.name, name, project=staging.project)),
            blocked_on=f"the removal of {name}, which did not arrive, on {ctx.move.target}",
        )
    except NotFound:
        return None
    if isinstance(ended, Outcome):
        return ended
    ctx.forget("unproven")
    if ended is not None and not ended.succeeded:
        ctx.note(copy_broken=True)
    return Outcome.again(evidence=ctx.job.evidence)


def has_arrived(ctx: Context, staging: Instance) -> bool:
    """Whether the staging copy was proven complete by whatever job, with the snapshot of this run."""
    if not staging.is_backup or staging.marks.get("state") != "complete" or ctx.job.facts.get("copy_broken"):
        return False
    there = ctx.target.snapshots(staging.name, project=staging.project)
    return ctx.move.order.snapshot in {each.name for each in there}


def _claim(ctx: Context, staging: Instance) -> Outcome | None:
    """Nobody else works on the staging copy any more; None when it is this job's.

    A run that does nothing with it for a while is dead, or waits for a server for which this one would wait too.
    """
    if not staging.is_backup or staging.config.get(BACKUP_OF) != ctx.move.origin or not staging.is_stopped:
        raise IdentityMismatch(
            f"{ctx.move.target}:{staging.name} is not the stopped staging copy of {ctx.move.origin}",
            hint="rename or delete it; the next run receives another one",
        )
    holder = staging.marks.get("job", "")
    if holder == ctx.job.id:
        return None
    running = find_operation(ctx.target.operations(project=ctx.move.target_project), staging.name)
    if running is not None:
        ctx.forget("idle")
        return ctx.wait_for(ctx.on_target(running.id), blocked_on=f"job {holder or 'of nobody'} on {staging.name}")
    if holder:
        seen = ctx.job.evidence.get("idle", ["", ""])
        if seen[0] != staging.etag:
            ctx.note(evidence={"idle": [staging.etag, ctx.now().isoformat()]})
            return _wait_for_holder(ctx, holder)
        if ctx.now() - datetime.fromisoformat(seen[1]) < _PATIENCE:
            return _wait_for_holder(ctx, holder)
    marks = {mark("job"): ctx.job.id, mark("role"): "target"}
    try:
        ctx.confirm_fence()
        ctx.target.patch(staging.name, project=staging.project, seen=staging, config=marks)
    except PreconditionFailed as error:
        raise TransferFailed(f"{ctx.move.target}:{staging.name} changed meanwhile: {error}") from error
    except NotFound:
        # LXD keeps a change of a wreck although it answers that it failed; if it is ours, it is removed.
        if ctx.own_copy() is None:
            raise
    ctx.forget("idle")
    return None


def _wait_for_holder(ctx: Context, holder: str) -> Outcome:
    return Outcome.wait(
        f"job {holder}, which holds {ctx.move.target}:{ctx.move.name}",
        retry_in=timedelta(seconds=15),
        evidence=dict(ctx.job.evidence),
    )


def release_staging(ctx: Context) -> None:
    """The staging copy is free for the next run, whatever state it is in."""
    staging = ctx.own_copy()
    if staging is not None:
        try:
            ctx.patch_target({mark("job"): ""}, seen=staging)
        except NotFound:
            return  # a wreck, which the next run takes over after a while


def _name_profiles(ctx: Context) -> None:
    """LXD takes snapshots only of profiles that it has by name; an empty one does, as no copy uses it."""
    snapshots = ctx.source.snapshots(ctx.move.instance, project=ctx.move.project)
    needed = {name for each in snapshots for name in each.profiles}
    there = {profile.name for profile in ctx.target.profiles(project=ctx.move.target_project)}
    for name in sorted(needed - there):
        ctx.confirm_fence()
        try:
            ctx.target.create_profile(
                name,
                description=f"{EMPTY_PROFILE} {ctx.move.source}",
                project=ctx.move.target_project,
            )
        except ServerRefused:
            if name not in {profile.name for profile in ctx.target.profiles(project=ctx.move.target_project)}:
                raise
