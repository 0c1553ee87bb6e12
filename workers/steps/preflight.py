"""Preflight: is this still the planned instance, and can it move there? Nothing is written before all is well."""

from dataclasses import replace
from typing import Any

from common.domain.creation import with_created
from common.domain.eligibility import attached_volumes, findings, inherits_root, wanted_pool
from common.domain.errors import IdentityMismatch, NotFound, PreflightRefused, ServerRefused
from common.domain.fleet import Server, sends_deltas
from common.domain.instance import Instance
from common.domain.job import Outcome
from common.domain.plan import identity_of
from common.domain.volume import Volumes
from common.lxd.survey import survey, told_of_machines, tried
from workers.steps.context import Context
from workers.steps.copies import kept_copy
from workers.steps.creating import create_missing
from workers.steps.guard import was_handed_over
from workers.steps.marks import mark_source, ran_before
from workers.steps.repair import drop_newest_snapshot, is_beyond_repair
from workers.steps.volumes import claim_volumes


def check_source(ctx: Context) -> Outcome:
    """The source exists, is the instance that was planned, and runs or is stopped."""
    instance = _source(ctx)
    if instance is None:
        return Outcome.completed()
    if ctx.move.identity and identity_of(instance) != ctx.move.identity:
        raise IdentityMismatch(
            f"{ctx.move.source}:{ctx.move.instance} is not the instance that was planned: it was made anew",
            hint="make the plan again",
        )
    if ctx.move.source_member and instance.location != ctx.move.source_member:
        raise IdentityMismatch(
            f"{ctx.move.source_place} has no {instance.name} any more: it is on {instance.location}",
            hint="make the plan again",
        )
    return Outcome.completed(was_running=ran_before(ctx, instance))


def check_target(ctx: Context) -> Outcome:
    """Everything the instance needs is on the target; then the source is marked as ours, unless it is copied."""
    instance = _source(ctx)
    if instance is None:
        return Outcome.completed()
    target = with_created(_survey(ctx), ctx.move.creations, ctx.move.target_project)
    is_handed_over = was_handed_over(ctx)
    is_under_way = ctx.move.is_refresh and kept_copy(ctx) is not None
    if not is_handed_over and not is_under_way:
        _refuse_if_unfit(ctx, instance, target)
        create_missing(ctx)
    ctx.note(**_about_the_target(ctx, instance, target))
    if not is_handed_over and not ctx.move.is_copy:
        try:
            mark_source(ctx, instance)
        except ServerRefused as error:
            if not is_beyond_repair(error.message):
                raise
            return drop_newest_snapshot(ctx)
        claim_volumes(ctx)
    return Outcome.completed()


def learned(ctx: Context) -> dict[str, Any]:
    """The facts that preflight notes, for a job that was handed over before Redis lost them. Raises NotFound."""
    instance = _source(ctx)
    if instance is None:
        return {}
    return {"was_running": ran_before(ctx, instance), **_about_the_target(ctx, instance, _survey(ctx))}


def _survey(ctx: Context) -> Server:
    return survey(ctx.target, projects=(ctx.move.target_project,), only=ctx.job.copy_name)


def _about_the_target(ctx: Context, instance: Instance, target: Server) -> dict[str, Any]:
    source_pools = {pool.name: pool for pool in ctx.source.pools()}
    source_driver = source_pools[instance.root_pool].driver if instance.root_pool in source_pools else ""
    target_driver = target.pools[wanted_pool(instance, ctx.move)].driver
    return {
        "deltas": sends_deltas(source_driver, target_driver),
        "root_from_profile": inherits_root(instance, ctx.move, target.profiles[ctx.move.target_project]),
    }


def _source(ctx: Context) -> Instance | None:
    """The source; None if it was deleted after the whole move was done, and Redis has lost that. Raises NotFound."""
    try:
        return ctx.source_instance()
    except NotFound:
        if was_handed_over(ctx):
            return None
        raise


def _refuse_if_unfit(ctx: Context, instance: Instance, target: Server) -> None:
    """Raises PreflightRefused."""
    if not ctx.move.is_within_cluster and attached_volumes(instance, ctx.move) != ctx.move.volumes:
        raise IdentityMismatch(
            f"{ctx.move.source}:{instance.name} attaches other custom volumes than were planned",
            hint="make the plan again",
        )
    source = Server(remote=ctx.move.source, info=ctx.source.info(), volumes=_volumes(ctx))
    if instance.is_virtual_machine:
        source = replace(source, networks={ctx.move.project: frozenset()})
        source, target = told_of_machines(ctx.source, source), told_of_machines(ctx.target, target)
    config = ctx.move.overrides.over(instance.own_config)
    target = tried(ctx.target, target, source.info, [config])
    refused = [f for f in findings(instance, ctx.move, source, target, own_job=ctx.job.id) if f.is_refusal]
    if refused:
        raise PreflightRefused(
            f"{ctx.move.instance}: " + "; ".join(finding.message for finding in refused),
            hint="; ".join(finding.hint for finding in refused),
        )


def _volumes(ctx: Context) -> Volumes:
    """Those of the source that go along."""
    project = ctx.move.project
    found = {(v.pool, project, v.name): v for v in ctx.source.volumes(project=project)} if ctx.move.volumes else {}
    return {key: found[key] for v in ctx.move.volumes if (key := (v.pool, project, v.name)) in found}
