"""The way back from any step before the commit point: the source runs as it did before."""

from datetime import timedelta

from common.domain.errors import IdentityMismatch, NotFound, PreconditionFailed, ServerUnreachable, TransferFailed
from common.domain.instance import Instance
from common.domain.job import Outcome
from workers.steps.cleanup import drop_own_snapshots
from workers.steps.context import Context
from workers.steps.copies import find_operation, remove_copy
from workers.steps.marks import restored, unguarded, unmarked


def cancel_pass(ctx: Context) -> Outcome:
    """No transfer of this instance is under way any more. Only the source's side of a pull can be cancelled."""
    try:
        operations = ctx.source.operations(project=ctx.move.project)
    except NotFound:
        return Outcome.completed()
    running = find_operation(operations, ctx.move.instance)
    if running is None:
        return Outcome.completed()
    if running.may_cancel:
        ctx.confirm_fence()
        ctx.source.cancel(running.id)
    return Outcome.wait(
        f"the end of '{running.description}' on {ctx.move.source}",
        retry_in=timedelta(milliseconds=300),
        operations=(ctx.on_source(running.id),),
        evidence=dict(ctx.job.evidence),
    )


def restart_source(ctx: Context) -> Outcome:
    """Take the guard off the source, give it its own autostart back, and start it if it ran before."""
    try:
        source = ctx.source_instance()
    except NotFound:
        return Outcome.completed()
    if source.marks.get("job") != ctx.job.id:
        return Outcome.completed()
    _refuse_if_target_runs(ctx)
    if source.is_guarded:
        released = _release_source(ctx, source)
        if released is not None:
            return released
        source = ctx.source_instance()
    if source.is_running or not ctx.job.facts.get("was_running") or "down_at" not in ctx.job.facts:
        return Outcome.completed()
    ended = ctx.settle(
        "restart",
        lambda: ctx.on_source(ctx.source.start(source.name, project=source.project)),
        blocked_on=f"the start on {ctx.move.source}",
    )
    if isinstance(ended, Outcome):
        return ended
    if ctx.source_instance().is_running:
        return Outcome.completed()
    ctx.forget("restart")
    raise TransferFailed(f"{ctx.move.source}: start of {source.name}: {ended.error if ended else 'forgotten'}")


def _refuse_if_target_runs(ctx: Context) -> None:
    """The copy is guarded until the commit point; a person may have taken the guard off all the same."""
    try:
        copy = ctx.own_copy()
    except ServerUnreachable:
        return
    if copy is not None and copy.is_running:
        raise IdentityMismatch(
            f"{ctx.move.target}:{copy.name} runs although it was never handed over",
            hint="stop it, then `herder retry`, or go on with it and delete the source",
        )


def _release_source(ctx: Context, source: Instance) -> Outcome | None:
    try:
        ended = ctx.settle(
            "release",
            lambda: ctx.on_source(ctx.source.replace(source, config=restored(source), devices=unguarded(source))),
            blocked_on=f"the release of the source on {ctx.move.source}",
        )
    except PreconditionFailed as error:
        raise TransferFailed(f"{ctx.move.source}:{source.name} changed meanwhile: {error}") from error
    if isinstance(ended, Outcome):
        return ended
    ctx.forget("release")
    if ended is not None and not ended.succeeded:
        raise TransferFailed(f"{ctx.move.source}: release of {source.name}: {ended.error}")
    return None


def discard_copy(ctx: Context) -> Outcome:
    """The copy on the target goes, if it is ours and was never handed over."""
    copy = ctx.own_copy()
    if copy is None:
        return Outcome.completed()
    running = find_operation(ctx.target.operations(project=ctx.move.target_project), copy.name)
    if running is not None and "remove" not in ctx.job.evidence and "rename" not in ctx.job.evidence:
        return Outcome.wait(
            f"the end of '{running.description}' on {ctx.move.target}",
            retry_in=timedelta(milliseconds=500),
            operations=(ctx.on_target(running.id),),
            evidence=dict(ctx.job.evidence),
        )
    return remove_copy(ctx, copy) or Outcome.completed()


def release_source(ctx: Context) -> Outcome:
    """Our snapshots and marks leave the source: nothing shows that we were there."""
    dropped = drop_own_snapshots(ctx, ctx.source, ctx.move.instance, ctx.move.project, ctx.on_source)
    if dropped is not None:
        return dropped
    try:
        source = ctx.source_instance()
    except NotFound:
        return Outcome.completed()
    if source.marks.get("job") == ctx.job.id:
        ctx.patch_source(unmarked(source))
    return Outcome.completed()
