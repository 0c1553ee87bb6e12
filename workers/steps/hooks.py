"""The lines of shell that a backup policy runs inside a running instance around the moment that the backup shows.

``make_quiet`` runs those before, ``end_quiet`` those after. Between the two the instance bears a mark with its job: so
no other job begins its own hook meanwhile, and should Redis forget what was under way, the server still tells it.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from common.domain.errors import NotFound, PreconditionFailed, ServerRefused, TransferFailed
from common.domain.instance import HOOK_MARK, Instance
from common.domain.job import Outcome
from common.domain.operation import Operation
from workers.steps.context import Context
from workers.steps.copies import COMMAND, find_operation
from workers.steps.copying import thaw
from workers.steps.marks import mark
from workers.steps.repair import drop_newest_snapshot, is_beyond_repair

#: How long the hook of another job may do nothing, beyond its timeout, before that job is taken for dead.
_PATIENCE = timedelta(minutes=2)
_SOON = timedelta(seconds=2)


def make_quiet(ctx: Context, source: Instance) -> Outcome | None:
    """None when the lines before have ended well. What they have done is undone by ``end_quiet``, whoever carries on.

    Raises TransferFailed.
    """
    if ctx.job.evidence.get("prepared") or not source.is_running or not ctx.move.order.hook.lines:
        return None
    waiting = _claim(ctx, source) or _run(ctx, "before", ctx.move.order.hook.before)
    if waiting is None:
        ctx.note(evidence={"prepared": True})
    return waiting


def inherit_quiet(ctx: Context) -> Outcome | None:
    """None when no other job's hook is in force; that of one that is gone, or of which Redis knows nothing, is ours.

    For who finds the snapshot made: what was run before it may still have to be undone.
    """
    if not ctx.move.order.hook.lines or ctx.job.is_quiet:
        return None
    source = ctx.source_instance()
    return _claim(ctx, source) if source.marks.get(HOOK_MARK) else None


def is_quiet(ctx: Context) -> bool:
    """Whether ``end_quiet`` has something to do, also if Redis has forgotten it."""
    if ctx.job.is_quiet or not ctx.move.order.hook.lines:
        return ctx.job.is_quiet
    try:
        is_ours = ctx.source_instance().marks.get(HOOK_MARK) == ctx.job.id
    except NotFound:
        return False
    if is_ours:
        ctx.note(quiet=[])
    return is_ours


def end_quiet(ctx: Context) -> Outcome | None:
    """None when nothing is left of what the lines before have done. Raises TransferFailed."""
    if not ctx.job.is_quiet:
        return None
    try:
        source = ctx.source_instance()
        waiting = thaw(ctx, source)
        if waiting is not None:
            return waiting
        if not source.is_running and ctx.move.order.hook.after and not ctx.job.evidence.keys() & {"after", "undone"}:
            raise TransferFailed(
                f"{_where(ctx)} is {source.status}, and the hook after its snapshot cannot run",
                hint=f"start it, then `herder retry {ctx.job.id}`, which runs the hook after its snapshot",
            )
        if not ctx.job.evidence.get("undone"):
            waiting = _run(ctx, "after", ctx.move.order.hook.after)
            if waiting is not None:
                return waiting
            ctx.note(evidence={"undone": True})
            source = ctx.source_instance()
        waiting = _write(ctx, source, "") if source.marks.get(HOOK_MARK) == ctx.job.id else None
        if waiting is not None:
            return waiting
    except NotFound:
        pass  # with the instance all goes that was done in it
    ctx.forget("undone")
    ctx.note(quiet=None)
    return None


def _claim(ctx: Context, source: Instance) -> Outcome | None:
    """None when this job's hook is the only one that is in force."""
    holder = source.marks.get(HOOK_MARK)
    if holder not in (None, ctx.job.id):
        waiting = _wait_for_holder(ctx, holder)
        if waiting is not None:
            return waiting
    # First on the server: who loses to another job there has nothing to undo, and runs nothing between its lines.
    waiting = None if holder == ctx.job.id else _write(ctx, source, ctx.job.id)
    if waiting is None and not ctx.job.is_quiet:
        ctx.note(quiet=[each.id for each in _commands(ctx)])
    return waiting


def _write(ctx: Context, source: Instance, holder: str) -> Outcome | None:
    """None when the instance, as it was seen, says whose hook is in force."""
    try:
        ctx.confirm_fence()
        ctx.source.patch(source.name, config={mark(HOOK_MARK): holder}, project=source.project, seen=source)
    except PreconditionFailed:
        return Outcome.again(evidence=ctx.job.evidence)
    except ServerRefused as refused:
        if not is_beyond_repair(refused.message):
            raise
        return drop_newest_snapshot(ctx)
    ctx.forget("holder")
    return None


def _wait_for_holder(ctx: Context, holder: str) -> Outcome | None:
    """None when that job has done nothing for so long that it is dead, or waits for a server."""
    busy = find_operation(ctx.source.operations(project=ctx.move.project), ctx.move.instance) or _commands(ctx)
    seen = ctx.job.evidence.get("holder", ["", ""])
    if busy or seen[0] != holder:
        seen = [holder, ctx.now().isoformat()]
        ctx.note(evidence={"holder": seen})
    if ctx.now() - datetime.fromisoformat(seen[1]) > ctx.move.order.hook.timeout + _PATIENCE:
        return None
    blocked_on = f"the hook of job {holder} in {_where(ctx)}"
    return Outcome.wait(blocked_on, retry_in=_SOON, evidence=dict(ctx.job.evidence))


def _run(ctx: Context, which: str, lines: Sequence[str]) -> Outcome | None:
    """Run the lines ``which`` are before or after the snapshot; None when they have ended well.

    Raises TransferFailed if one fails, or if they take longer than the hook's timeout.
    """
    if not lines:
        return None
    began = f"{which}_since"
    if which not in ctx.job.evidence:
        waiting = _wait_for_commands(ctx, which)
        if waiting is not None:
            return waiting
        ctx.note(evidence={began: ctx.now().isoformat()})
    ended = ctx.settle(
        which,
        lambda: ctx.on_source(
            ctx.source.execute(ctx.move.instance, ["sh", "-ec", "\n".join(lines)], project=ctx.move.project)
        ),
        blocked_on=f"the hook {which} the snapshot of {_where(ctx)}",
    )
    if isinstance(ended, Outcome):
        patience = ctx.move.order.hook.timeout
        if ctx.now() - datetime.fromisoformat(ctx.job.evidence[began]) <= patience:
            return ended
        failure = f"it has not ended after {patience.total_seconds():.0f} s"
    elif ended is None:
        failure = "its server has forgotten how it ended"
    elif ended.metadata.get("return") == 0:
        ctx.forget(which, began)
        return None
    else:
        failure = ended.error or f"exit code {ended.metadata.get('return')}"
    ctx.forget(which, began)
    raise TransferFailed(f"{_where(ctx)}: the hook {which} its snapshot: {failure}")


def _wait_for_commands(ctx: Context, which: str) -> Outcome | None:
    """None when nothing runs that a worker that died has begun, or that took too long: what follows comes after it.

    Nobody can end it; and whether it is that or the command of a person who has just come, its server does not tell.
    """
    running = [each for each in _commands(ctx) if each.id not in (ctx.job.facts.get("quiet") or ())]
    key = f"{which}_waits"
    since = ctx.job.evidence.get(key, ctx.now().isoformat())
    if not running or ctx.now() - datetime.fromisoformat(since) > ctx.move.order.hook.timeout:
        ctx.forget(key)
        return None
    ctx.note(evidence={key: since})
    return ctx.wait_for(
        ctx.on_source(running[0].id), blocked_on=f"the end of a command in {_where(ctx)}", retry_in=_SOON
    )


def _commands(ctx: Context) -> list[Operation]:
    """Those that run inside the instance."""
    return [
        each
        for each in ctx.source.operations(project=ctx.move.project)
        if each.description == COMMAND and not each.is_finished and ctx.move.instance in each.instances
    ]


def _where(ctx: Context) -> str:
    return f"{ctx.move.source}:{ctx.move.instance}"
