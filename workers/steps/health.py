"""The plan's own word on whether the moved instance is well: a command that must end with exit code 0 inside it."""

from dataclasses import replace
from datetime import datetime, timedelta

from common.domain.errors import ServerRefused, VerificationFailed
from common.domain.job import Outcome
from common.domain.operation import Operation
from common.domain.plan import Health
from workers.steps.context import Context

_AGAIN = timedelta(seconds=1)


def check_health(ctx: Context) -> Outcome | None:
    """Run the health command until it ends with 0; None when it has, or when there is none.

    Raises VerificationFailed when its time is up.
    """
    health = ctx.move.policy.health
    if health is None or not ctx.job.facts.get("was_running"):
        return None
    if not ctx.job.facts.get("health_since"):
        ctx.note(health_since=ctx.now().isoformat())
    is_under_way = "health" in ctx.job.evidence
    try:
        ended = ctx.settle("health", lambda: ctx.on_target(_run(ctx, health)), blocked_on="the health command")
    except ServerRefused as refused:
        return _not_well(ctx, health, refused.message)
    if isinstance(ended, Outcome):
        left = _time_left(ctx, health)
        if left > timedelta(0) or not is_under_way:
            return replace(ended, retry_in=min(ended.retry_in, max(left, _AGAIN)))
        ctx.forget("health")
        return _not_well(ctx, health, "it has not ended")
    ctx.forget("health")
    if ended is None:
        # Its server forgot it before anybody looked: that is no verdict.
        return _wait(ctx, "nobody saw it end")
    verdict = _verdict(ended)
    return _not_well(ctx, health, verdict) if verdict else None


def _run(ctx: Context, health: Health) -> str:
    return ctx.target.execute(ctx.move.name, health.command, project=ctx.move.target_project)


def _verdict(ended: Operation) -> str:
    """What was wrong, ``""`` if nothing."""
    code = ended.metadata.get("return")
    if code == 0:
        return ""
    return f"exit code {code}" if code is not None else ended.error


def _not_well(ctx: Context, health: Health, verdict: str) -> Outcome:
    if _time_left(ctx, health) > timedelta(0):
        return _wait(ctx, verdict)
    # A retry shall have the whole time again.
    ctx.job = ctx.job.without("health_since")
    raise VerificationFailed(
        f"{' '.join(health.command)}: {verdict}, for {health.timeout.total_seconds():.0f} s",
        hint=f"it runs on {ctx.move.target}, the source is kept, stopped; mend it, then `herder retry {ctx.job.id}`",
    )


def _time_left(ctx: Context, health: Health) -> timedelta:
    return health.timeout - (ctx.now() - datetime.fromisoformat(ctx.job.facts["health_since"]))


def _wait(ctx: Context, verdict: str) -> Outcome:
    return Outcome.wait(f"the health command to succeed ({verdict})", retry_in=_AGAIN, evidence=dict(ctx.job.evidence))
