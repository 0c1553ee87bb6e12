"""Preflight: is this still the planned instance, and can it move there? Nothing is written before all is well."""

from common.domain.eligibility import findings, inherits_root, wanted_pool
from common.domain.errors import IdentityMismatch, PreflightRefused
from common.domain.fleet import Server, sends_deltas
from common.domain.job import Outcome
from common.domain.plan import identity_of
from common.lxd.survey import survey
from workers.steps.context import Context
from workers.steps.marks import mark_source


def check_source(ctx: Context) -> Outcome:
    """The source exists, is the instance that was planned, and runs or is stopped."""
    instance = ctx.source_instance()
    if ctx.move.identity and identity_of(instance) != ctx.move.identity:
        raise IdentityMismatch(
            f"{ctx.move.source}:{ctx.move.instance} is not the instance that was planned: it was made anew",
            hint="make the plan again",
        )
    return Outcome.completed(was_running=instance.is_running)


def check_target(ctx: Context) -> Outcome:
    """Everything the instance needs is on the target; then the source is marked as ours."""
    instance = ctx.source_instance()
    source = Server(remote=ctx.move.source, info=ctx.source.info())
    target = survey(ctx.target, projects=(ctx.move.target_project,), only=ctx.move.name)
    refused = [f for f in findings(instance, ctx.move, source, target, own_job=ctx.job.id) if f.is_refusal]
    if refused:
        raise PreflightRefused(
            f"{ctx.move.instance}: " + "; ".join(finding.message for finding in refused),
            hint="; ".join(finding.hint for finding in refused),
        )
    source_pools = {pool.name: pool for pool in ctx.source.pools()}
    source_driver = source_pools[instance.root_pool].driver if instance.root_pool in source_pools else ""
    target_driver = target.pools[wanted_pool(instance, ctx.move)].driver
    ctx.note(
        deltas=sends_deltas(source_driver, target_driver),
        root_from_profile=inherits_root(instance, ctx.move, target.profiles[ctx.move.target_project]),
    )
    mark_source(ctx, instance)
    return Outcome.completed()
