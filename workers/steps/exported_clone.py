"""What an export of a moment is made of: a clone of the run's snapshot, beside the instance, that cannot be started.

A server makes backup files of instances only, and of one that runs while it runs. What is made quiet for its backup is
so for as long as the snapshot takes, and no longer. The clone lives as long as the backup file on the server. It has no
network cards, whose addresses the instance has already; the manifest tells what they are. Used by ``exporting``.
"""

from collections.abc import Mapping

from common.domain.errors import IdentityMismatch, NotFound, OutOfSpace, PermanentError, TransferFailed
from common.domain.generation import BACKUP_OF, MAKING
from common.domain.instance import BACKUP_STATE, COPY_OF, Instance
from common.domain.job import Outcome
from common.domain.plan import identity_of
from common.lxd.migration import generation_body
from workers.steps.context import Context
from workers.steps.copies import find_operation, settle_clone
from workers.steps.guard import guard
from workers.steps.marks import mark

_FULL = "no space left on device"


def exported_snapshot(ctx: Context) -> Instance:
    """The instance as it was at its run's snapshot. Raises PermanentError if that is gone."""
    try:
        return ctx.source.snapshotted(ctx.move.instance, ctx.move.order.snapshot, project=ctx.move.project)
    except NotFound as gone:
        raise PermanentError(
            f"{ctx.move.source}:{ctx.move.instance} has no snapshot {ctx.move.order.snapshot} any more",
            hint="the next run makes a newer backup; `herder cancel` ends this one",
        ) from gone


def make_clone(ctx: Context) -> Outcome | None:
    """None when it is there and whole. One of which nobody saw the end is made again."""
    if "clone" not in ctx.job.evidence:
        found = _find(ctx)
        if found is not None:
            return None if ctx.job.facts.get("cloned") else drop_clone_of_snapshot(ctx)
        ctx.note(cloned=False)
    body = {} if "clone" in ctx.job.evidence else _body(ctx)
    waiting = settle_clone(
        ctx,
        lambda: ctx.on_source(ctx.source.receive(body, project=ctx.move.project)),
        blocked_on=f"the clone of snapshot {ctx.move.order.snapshot} on {ctx.move.source}",
        failed=lambda error: _failed(ctx, error),
    )
    if waiting is None:
        ctx.note(cloned=True)
    return waiting


def _failed(ctx: Context, error: str) -> TransferFailed | OutOfSpace:
    what = f"{_where(ctx)}, the clone of snapshot {ctx.move.order.snapshot}, cannot be made: {error}"
    if _FULL in error.lower():
        return OutOfSpace(what, hint=f"free or add space in pool {ctx.move.pool}, then `herder retry {ctx.job.id}`")
    return TransferFailed(what)


def _body(ctx: Context) -> Mapping[str, object]:
    source, was = ctx.source_instance(), exported_snapshot(ctx)
    without_cards = {name: {"type": "none"} for name, device in was.devices.items() if device.get("type") == "nic"}
    return generation_body(
        ctx.move.exported,
        of=source,
        snapshot=ctx.move.order.snapshot,
        config={
            "boot.autostart": "false",
            "security.protection.delete": "false",
            BACKUP_STATE: MAKING,
            BACKUP_OF: ctx.move.origin,
            COPY_OF: identity_of(source),
            mark("job"): ctx.job.id,
            mark("role"): "exported",
        },
        devices={**without_cards, **guard(ctx.move.type)},
        profiles=was.own_profiles,
    )


def drop_clone_of_snapshot(ctx: Context) -> Outcome | None:
    """None when there is none any more. Raises IdentityMismatch for what no job of this run has made."""
    found = _find(ctx)
    if found is None:
        ctx.forget("remove")
        return None
    is_ours = found.config.get(BACKUP_OF) == ctx.move.origin and found.config.get(BACKUP_STATE) == MAKING
    if not (is_ours and found.is_stopped):
        raise IdentityMismatch(f"{_where(ctx)} is no clone of a backup; left alone", hint="rename or delete it")
    running = find_operation(ctx.source.operations(project=ctx.move.project), found.name)
    if running is not None and "remove" not in ctx.job.evidence:
        return ctx.wait_for(
            ctx.on_source(running.id), blocked_on=f"the end of '{running.description}' on {ctx.move.source}"
        )
    try:
        ended = ctx.settle(
            "remove",
            lambda: ctx.on_source(ctx.source.delete(found.name, project=found.project)),
            blocked_on=f"the removal of the clone {_where(ctx)}",
        )
    except NotFound:
        ended = None
    if isinstance(ended, Outcome):
        return ended
    ctx.forget("remove")
    if ended is not None and not ended.succeeded:
        raise TransferFailed(f"removal of {_where(ctx)}: {ended.error}")
    return Outcome.again(evidence=ctx.job.evidence)


def _find(ctx: Context) -> Instance | None:
    try:
        return ctx.source.instance(ctx.move.exported, project=ctx.move.project)
    except NotFound:
        return None


def _where(ctx: Context) -> str:
    return f"{ctx.move.source}:{ctx.move.exported}"
