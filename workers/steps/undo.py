"""The way back from any step before the commit point: the source runs as it did before."""

from contextlib import suppress
from datetime import datetime, timedelta

from common.domain.errors import IdentityMismatch, NotFound, ServerUnreachable, TransferFailed
from common.domain.instance import Instance
from common.domain.job import Outcome
from common.domain.operation import Operation
from workers.steps.cleanup import drop_own_snapshots
from workers.steps.context import Context
from workers.steps.copies import find_operation, remove_copy
from workers.steps.copying import thaw
from workers.steps.guard import remove_guard_profiles, unguard_source, was_handed_over
from workers.steps.homing import put_stale_back
from workers.steps.independence import keep_from_release
from workers.steps.marks import unmarked
from workers.steps.preflight import learned
from workers.steps.refreshing import put_back
from workers.steps.volume_steps import discard_sent_volumes
from workers.steps.volumes import give_volumes_back

_REFRESH_MAY_END = timedelta(seconds=20)


def cancel_pass(ctx: Context) -> Outcome:
    """No transfer of this instance is under way any more. Only a pull can be cancelled; a push is waited for.

    A refresh gets a while to end by itself: LXD 5.0.2 forgets the snapshot, but not the snapshot's volume, of one that
    is cancelled between the two, and then cannot delete the copy any more.
    """
    running = _under_way(ctx)
    if running is None:
        return Outcome.completed()
    since = ctx.job.evidence.get("cancels_since", ctx.now().isoformat())
    is_refresh = ctx.job.passes or ctx.job.evidence.get("kind") == "refresh"
    may_end = is_refresh and ctx.now() - datetime.fromisoformat(since) < _REFRESH_MAY_END
    if running.may_cancel and not may_end:
        ctx.confirm_fence()
        ctx.source.cancel(running.id)
    what = "" if running.may_cancel else ", which cannot be cancelled"
    return Outcome.wait(
        f"the end of '{running.description}' on {ctx.move.source}{what}",
        retry_in=timedelta(milliseconds=300),
        operations=(ctx.on_source(running.id),),
        evidence={**ctx.job.evidence, "cancels_since": since},
    )


def _under_way(ctx: Context) -> Operation | None:
    """The transfer. Of a source that is copied there may be others, of which only its record tells ours."""
    if ctx.move.is_copy:
        offer = ctx.source.operation(ctx.job.evidence["offer"]) if "offer" in ctx.job.evidence else None
        return offer if offer is not None and not offer.is_finished else None
    try:
        return find_operation(ctx.source.operations(project=ctx.move.project), ctx.move.instance)
    except NotFound:
        return None


def restart_source(ctx: Context) -> Outcome:
    """Take the guard off the source, and start it if it ran before; one that is copied is only never left frozen."""
    try:
        source = ctx.source_instance()
    except NotFound:
        return Outcome.completed()
    if ctx.move.is_copy:
        return thaw(ctx, source) or Outcome.completed()
    if source.marks.get("job") != ctx.job.id or source.is_handed_over:
        # Handed over, and Redis has lost that: the way forward finds its steps done.
        return Outcome.completed()
    if source.status == "Frozen":  # by a pass whose daemon died
        thawing = thaw(ctx, source)
        if thawing is not None:
            return thawing
        source = ctx.source_instance()
    _refuse_if_target_runs(ctx)
    if source.is_guarded:
        if "down_at" not in ctx.job.facts:
            ctx.note(down_at=ctx.now().isoformat())  # Redis has lost the note: who guards has stopped it
        unguard_source(ctx)
    if source.is_running or not ctx.job.facts.get("was_running") or "down_at" not in ctx.job.facts:
        return Outcome.completed()
    return start_again(ctx, source)


def start_again(ctx: Context, source: Instance) -> Outcome:
    """Start the source, which is free to. Raises TransferFailed."""
    ended = ctx.settle(
        "restart",
        lambda: ctx.on_source(ctx.source.start(source.name, stateful=source.stateful, project=source.project)),
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


def discard_copy(ctx: Context) -> Outcome:
    """The copy on the target goes with its volumes, if it is ours; if it was handed over, there is no way back."""
    if ctx.move.is_refresh:
        return put_back(ctx) or Outcome.goes_forward(**learned(ctx))
    if was_handed_over(ctx):
        return Outcome.goes_forward(**learned(ctx))
    copy = ctx.own_copy()
    if copy is None:
        return discard_sent_volumes(ctx)
    if ctx.move.is_copy:
        keep_from_release(ctx, copy)
    running = find_operation(ctx.target.operations(project=ctx.move.target_project), copy.name)
    if running is not None and "remove" not in ctx.job.evidence and "rename" not in ctx.job.evidence:
        blocked_on = f"the end of '{running.description}' on {ctx.move.target}"
        return ctx.wait_for(ctx.on_target(running.id), blocked_on=blocked_on, retry_in=timedelta(milliseconds=500))
    if ctx.move.is_copy and was_handed_over(ctx):
        return Outcome.goes_forward(**learned(ctx))
    return remove_copy(ctx, copy) or discard_sent_volumes(ctx)


def release_source(ctx: Context) -> Outcome:
    """Our snapshots and marks leave the source: nothing shows that we were there."""
    dropped = drop_own_snapshots(ctx) or (put_stale_back(ctx) if ctx.move.goes_home else None)
    if dropped is not None:
        return dropped
    with suppress(NotFound):
        source = ctx.source_instance()
        if source.marks.get("job") == ctx.job.id:
            ctx.patch_source(unmarked(source), profiles=source.own_profiles)
    give_volumes_back(ctx)
    remove_guard_profiles(ctx)
    return Outcome.completed()
