"""A failover: an instance that was made of its backup takes the place of the one at home, which must not run any more.

The instance at home is guarded first: it gets the guard while it is stopped, so that neither its server's boot nor a
person starts it. If its server does not answer, nobody can do that. Then the operator has said that nothing runs there,
and the last step waits for that server: as soon as it answers, what is stale is stopped and guarded, and what it holds
is kept in a snapshot. Nothing of it is ever removed or overwritten. ``homing`` is the way back.
"""

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta

from common.domain.errors import (
    IdentityMismatch,
    NotFound,
    PermanentError,
    PreconditionFailed,
    PreflightRefused,
    ServerRefused,
    ServerUnreachable,
    TransferFailed,
)
from common.domain.failover import FailoverOrder
from common.domain.instance import STALE_ROLE, Devices, Instance
from common.domain.job import Outcome
from common.domain.operation import OperationRef
from common.domain.plan import identity_of
from common.logs import event
from common.lxd.client import LxdClient
from workers.steps.context import Context
from workers.steps.guard import guard, is_released, unguarded
from workers.steps.independence import release_copy
from workers.steps.marks import mark, restored, wanted

log = logging.getLogger("herder.failover")

#: How long what was guarded must stay stopped: a start may have been accepted before.
_STEADY = timedelta(seconds=5)
_SOON = timedelta(seconds=1)


def guard_home(ctx: Context) -> Outcome:
    """The instance at home cannot start; or its server does not answer, and the operator said that it is down."""
    order = ctx.move.takes_place_of
    try:
        stale = _stale(ctx)
    except ServerUnreachable as silent:
        if not (order.source_is_down or ctx.job.facts.get("is_guarded")):
            raise
        event(log, "failover.unseen", job=ctx.job.id, home=str(order), said="source-is-down", reason=silent.message)
        return Outcome.completed()
    if stale is not None:
        _guard_stopped(ctx, stale)
    return Outcome.completed(is_guarded=True)


def _guard_stopped(ctx: Context, stale: Instance) -> None:
    """Raises PreflightRefused if it runs: then this is no case for a failover."""
    order = ctx.move.takes_place_of
    _check_whose(ctx, stale)
    if not _is_guarded(ctx, stale):
        if stale.is_stale:
            ctx.note(was_stale=True)
        if stale.is_stopped:
            ctx.note(guards_home=True)  # should its answer be lost, the way back must not forget it
            _change(ctx, stale, config=_marks(ctx, stale), devices=guard(stale.type))
        stale = _stale(ctx) or stale
    if not stale.is_stopped:
        raise PreflightRefused(
            f"{order} is {stale.status}: {ctx.move.target}:{ctx.move.name} must not run beside it",
            hint=f"`herder cancel {ctx.job.id}`, then `herder move {order} {ctx.move.target}:` takes it with all "
            f"that it has; or stop it, then `herder retry {ctx.job.id}`",
        )


def _check_whose(ctx: Context, stale: Instance) -> None:
    """Raises IdentityMismatch for what another job has, or has moved away: then the instance is somewhere else."""
    holder, order = stale.marks.get("job", ""), ctx.move.takes_place_of
    if order.identity and identity_of(stale) != order.identity:
        raise IdentityMismatch(
            f"{order} is another instance than the one that was backed up, and is left alone",
            hint=f"rename it; or stop and delete it, if it must not run beside {ctx.move.target}:{ctx.move.name}; then "
            f"`herder retry {ctx.job.id}`",
        )
    where = stale.marks.get("target", "another server")
    if holder in ("", ctx.job.id) or (stale.is_stale and where == f"{ctx.move.target}:{ctx.move.name}"):
        return
    if stale.is_retired:
        raise IdentityMismatch(
            f"job {holder} has brought {order} to {where}, where it may run",
            hint=f"if that one is lost: `lxc config unset {order} {mark('job')}`, then `herder retry {ctx.job.id}`",
        )
    raise IdentityMismatch(
        f"{order} belongs to job {holder}",
        hint=f"`herder cancel {holder}` or let it end, then `herder retry {ctx.job.id}`",
    )


def _is_guarded(ctx: Context, stale: Instance) -> bool:
    return stale.is_stale and stale.marks.get("job") == ctx.job.id


def _marks(ctx: Context, stale: Instance) -> dict[str, str]:
    return {
        mark("job"): ctx.job.id,
        mark("role"): STALE_ROLE,
        mark("state"): "retired",
        mark("target"): f"{ctx.move.target}:{ctx.move.name}",
        "boot.autostart": "false",
        **({} if stale.marks.get("role") == STALE_ROLE else wanted(stale.config)),
    }


def take_over(ctx: Context) -> Outcome:
    """The commit point: home is looked at once more, and the instance is free to start."""
    if is_released(ctx, ctx.target_instance()):
        return Outcome.completed()
    if "release" not in ctx.job.evidence:
        ctx.note(**guard_home(ctx).facts)
    return release_copy(ctx)


def start_failover(ctx: Context) -> Outcome:
    """It runs, if it ran when it was backed up."""
    made = _made(ctx)
    if made.is_running or not ctx.move.takes_place_of.starts:
        return Outcome.completed()
    ended = ctx.settle(
        "start",
        lambda: ctx.on_target(ctx.target.start(made.name, project=made.project)),
        blocked_on=f"the start on {ctx.move.target}",
    )
    if isinstance(ended, Outcome):
        return ended
    if _made(ctx).is_running:
        return Outcome.completed()
    ctx.forget("start")
    raise TransferFailed(f"{ctx.move.target}: start of {made.name}: {ended.error if ended else 'forgotten'}")


def _made(ctx: Context) -> Instance:
    """What took over. Raises PermanentError."""
    found = ctx.target_instance()
    if found is None or not is_released(ctx, found):
        raise PermanentError(
            f"{ctx.move.target}:{ctx.move.name} has vanished after it took over from {ctx.move.takes_place_of}",
            hint=f"its backup {ctx.move.source}:{ctx.move.instance} is as it was",
        )
    return found


def guard_stale(ctx: Context) -> Outcome:
    """What is at home is stopped and guarded, and kept in a snapshot. Its server is waited for, however long."""
    if ctx.job.facts.get("is_guarded"):
        return Outcome.completed()
    stale = _stale(ctx)
    if stale is None:
        return Outcome.completed(is_guarded=True)
    _check_whose(ctx, stale)
    waiting = _stop(ctx, stale) or _guard(ctx) or _keep(ctx) or _stay(ctx)
    return waiting or Outcome.completed(is_guarded=True)


def _stop(ctx: Context, stale: Instance) -> Outcome | None:
    """None when it is stopped. By force: each second more is one in which two run, and nobody is to serve here."""
    order = ctx.move.takes_place_of
    if stale.is_stopped and "stop" not in ctx.job.evidence:
        return None
    if "stop" not in ctx.job.evidence:
        if stale.ephemeral:
            raise PermanentError(
                f"{order} runs beside {ctx.move.target}:{ctx.move.name}, and is ephemeral: a stop would delete it",
                hint=f"save what it has and stop it, then `herder retry {ctx.job.id}`",
            )
        event(log, "failover.two_run", job=ctx.job.id, home=str(order), target=f"{ctx.move.target}:{ctx.move.name}")
        ctx.note(stale_ran=True)
        # Its server takes these while it runs; so nothing starts it again between the stop and the guard.
        _change(ctx, stale, config=_marks(ctx, stale))
    ended = ctx.settle(
        "stop",
        lambda: _ref(ctx, _home(ctx).force_stop(order.instance, project=order.project)),
        blocked_on=f"the stop of {order}, which runs beside {ctx.move.target}:{ctx.move.name}",
    )
    if isinstance(ended, Outcome):
        return ended
    ctx.forget("stop", "steady_since")
    now = _stale(ctx)
    if now is None or now.is_stopped:
        return None
    raise TransferFailed(f"{order} does not stop: {ended.error if ended else 'its server has forgotten it'}")


def _guard(ctx: Context) -> Outcome | None:
    """None when it is guarded, and still stopped."""
    stale = _stale(ctx)
    if stale is not None and not _is_guarded(ctx, stale):
        try:
            _change(ctx, stale, config=_marks(ctx, stale), devices=guard(stale.type))
        except ServerRefused:
            # A server that boots answers, but keeps changes waiting until it has started what it starts.
            now = _stale(ctx)
            if now is None or now.is_stopped:
                raise
        stale = _stale(ctx)
    if stale is not None and not stale.is_stopped:
        return Outcome.again(evidence=ctx.job.evidence)
    return None


def _keep(ctx: Context) -> Outcome | None:
    """None when there is a snapshot of what it holds."""
    order, name = ctx.move.takes_place_of, kept_in(ctx.job.id)
    if "keep" not in ctx.job.evidence:
        try:
            there = {each.name for each in _home(ctx).snapshots(order.instance, project=order.project)}
        except NotFound:
            return None
        if name in there:
            return None
    try:
        ended = ctx.settle(
            "keep",
            lambda: _ref(ctx, _home(ctx).create_snapshot(order.instance, name, project=order.project)),
            blocked_on=f"snapshot {name} of {order}, of what it holds",
        )
    except ServerRefused as refused:
        raise TransferFailed(f"{order} is stopped and guarded, but snapshot {name}: {refused.message}") from refused
    if isinstance(ended, Outcome):
        return ended
    ctx.forget("keep")
    if ended is None:
        return Outcome.again(evidence=ctx.job.evidence)
    if not ended.succeeded:
        raise TransferFailed(f"{order} is stopped and guarded, but snapshot {name}: {ended.error}")
    ctx.note(stale_kept=f"{order}/{name}")
    return None


def kept_in(job: str) -> str:
    """The name of the snapshot of what was at home when its server came back."""
    return f"failover-{job}"


def _stay(ctx: Context) -> Outcome | None:
    """None when it has been stopped for so long that its server is not about to start it any more."""
    since = ctx.job.evidence.get("steady_since") or ctx.now().isoformat()
    left = datetime.fromisoformat(since) + _STEADY - ctx.now()
    if left <= timedelta(0):
        return None
    return Outcome.wait(
        f"{ctx.move.takes_place_of} to stay stopped",
        retry_in=min(_SOON, left),
        evidence={**ctx.job.evidence, "steady_since": since},
    )


def free_home(ctx: Context) -> Outcome:
    """On the way back: what is at home is free to start again, as it was, now that nothing was made of its backup."""
    if ctx.job.facts.get("was_stale"):
        return Outcome.completed()  # it was guarded before this failover, and stays so
    try:
        stale = _stale(ctx)
    except ServerUnreachable:
        if ctx.job.facts.get("guards_home"):
            raise
        return Outcome.completed()
    if "free" not in ctx.job.evidence and (stale is None or not _is_guarded(ctx, stale)):
        return Outcome.completed()
    order = ctx.move.takes_place_of

    def put() -> OperationRef:
        assert stale  # noqa: S101 - it was looked at a line above
        config = {key: value for key, value in restored(stale).items() if not key.startswith(mark(""))}
        return _ref(ctx, _home(ctx).replace(stale, config=config, devices=unguarded(stale)))

    try:
        ended = ctx.settle("free", put, blocked_on=f"the guard to leave {order}")
    except PreconditionFailed as error:
        raise TransferFailed(f"{order} changed meanwhile: {error}") from error
    if isinstance(ended, Outcome):
        return ended
    ctx.forget("free")
    if ended is not None and not ended.succeeded:
        raise TransferFailed(f"{order} keeps its guard: {ended.error}")
    return Outcome.again()


def _home(ctx: Context) -> LxdClient:
    return ctx.client_of(ctx.move.takes_place_of.remote)


def _ref(ctx: Context, operation: str) -> OperationRef:
    order: FailoverOrder = ctx.move.takes_place_of
    return OperationRef(remote=order.remote, id=operation, project=order.project)


def _stale(ctx: Context) -> Instance | None:
    """What has the instance's name at home. Raises ServerUnreachable."""
    order = ctx.move.takes_place_of
    try:
        return _home(ctx).instance(order.instance, project=order.project)
    except NotFound:
        return None


def _change(ctx: Context, seen: Instance, *, config: Mapping[str, str], devices: Devices | None = None) -> None:
    def look() -> Instance:
        return _home(ctx).instance(seen.name, project=seen.project)

    ctx.patch(_home(ctx), look, seen=seen, config=config, devices=devices or {})
