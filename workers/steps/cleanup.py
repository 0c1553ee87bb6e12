"""Cleanup: what happens to the source and to our own snapshots, after the target has been verified."""

from collections.abc import Callable

from common.domain.errors import IdentityMismatch, NotFound, ServerBusy, ServerRefused, TransferFailed
from common.domain.instance import Instance
from common.domain.job import Outcome
from common.domain.operation import OperationRef
from common.domain.plan import Retire
from common.lxd.client import LxdClient
from workers.steps.context import Context
from workers.steps.cutover import was_finished
from workers.steps.guard import guard, remove_guard_profiles
from workers.steps.marks import is_own_snapshot, mark, unmarked

#: btrfs lets nobody change what is being sent. After its target has died, that lasts until the source notices.
_IS_SENT = "Could not set subvolume flags: Operation not permitted"


def retire_source(ctx: Context) -> Outcome:
    """Keep the source, stopped and unable to start, or delete it if the plan says so.

    The source is retired by a step of its own, because a verified target is the only proof we accept.
    """
    try:
        source = ctx.source_instance()
    except NotFound:
        return Outcome.completed()
    if source.marks.get("job") != ctx.job.id or not source.is_stopped or not source.is_guarded:
        raise IdentityMismatch(
            f"{ctx.move.source}:{source.name} is not the stopped source of this job any more; left alone",
            hint=f"the target {ctx.move.target}:{ctx.move.name} is verified; look at the source by hand",
        )
    copy = ctx.own_copy()
    if copy is None and was_finished(ctx):
        return Outcome.completed()
    if copy is None or (ctx.job.facts.get("was_running") and not copy.is_running):
        raise TransferFailed(f"{ctx.move.target}:{ctx.move.name} does not run; the source is kept")
    if ctx.move.policy.retire is Retire.STOP:
        ctx.patch_source(
            {mark("state"): "retired", "boot.autostart": "false"},
            devices=guard(source.type),
            profiles=source.own_profiles,
        )
        return Outcome.completed()
    ended = ctx.settle(
        "delete",
        lambda: ctx.on_source(ctx.source.delete(source.name, project=source.project)),
        blocked_on=f"the removal of the source on {ctx.move.source}",
    )
    if isinstance(ended, Outcome):
        return ended
    ctx.forget("delete")
    raise TransferFailed(f"{ctx.move.source}: delete of {source.name}: {ended.error if ended else 'forgotten'}")


def drop_snapshots(ctx: Context) -> Outcome:
    """Our own snapshots and profiles go on both sides; then the target loses its marks: it is nobody's job now."""
    dropped = drop_own_snapshots(ctx)
    if dropped is not None:
        return dropped
    remove_guard_profiles(ctx)
    copy = ctx.own_copy()
    if copy is not None:
        ctx.patch_target(unmarked(copy))
    return Outcome.completed()


def drop_own_snapshots(ctx: Context) -> Outcome | None:
    """Delete this job's snapshots on both sides; None when there are none left."""
    return _drop(ctx, ctx.target, ctx.target_instance, ctx.on_target) or _drop(
        ctx, ctx.source, ctx.source_instance, ctx.on_source
    )


def _drop(
    ctx: Context, client: LxdClient, look: Callable[[], Instance | None], named: Callable[[str], OperationRef]
) -> Outcome | None:
    """Delete this job's snapshots of one instance, one after the other; None when there are none left."""
    try:
        instance = look()
        if instance is None:
            return None
        name, project = instance.name, instance.project
        own = sorted(s.name for s in client.snapshots(name, project=project) if is_own_snapshot(ctx.job, s.name))
    except NotFound:
        return None
    for snapshot in own:
        key = f"drop:{client.remote}:{name}:{snapshot}"
        try:
            ended = ctx.settle(
                key,
                lambda snapshot=snapshot: named(client.delete_snapshot(name, snapshot, project=project)),  # type: ignore[misc]
                blocked_on=f"the removal of snapshot {snapshot} on {client.remote}",
            )
        except NotFound:
            continue  # an earlier request has removed it meanwhile
        if isinstance(ended, Outcome):
            return ended
        ctx.forget(key)
        if ended is None:
            # Its server has forgotten the removal, perhaps before it was carried out.
            return Outcome.again(evidence=ctx.job.evidence)
        if not ended.succeeded and _IS_SENT in ended.error:
            raise ServerBusy(f"{client.remote}: snapshot {snapshot} is still being sent: {ended.error}")
        if not ended.succeeded:
            raise ServerRefused(f"{client.remote}: removal of snapshot {snapshot}: {ended.error}")
    return None
