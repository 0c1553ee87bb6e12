"""The second half of a backup: a generation is cloned from the staging copy, looked at, and called complete.

A generation is an instance of its own on the target, made of the run's snapshot, and nothing that happens to the
staging copy or to the source can reach it. Until it is ``complete`` it is this job's and is never counted; from then on
only ``prune`` removes it, and never the newest. ``backing_up`` has the first half.
"""

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from common.domain.errors import CopyLost, IdentityMismatch, NotFound, TransferFailed, VerificationFailed
from common.domain.generation import (
    BACKUP,
    BACKUP_AT,
    BACKUP_DEFINITION,
    BACKUP_OF,
    COMPLETE,
    MAKING,
    Generation,
    moment_of,
)
from common.domain.instance import BACKUP_STATE, GUARD_DEVICE, Instance, is_root_disk
from common.domain.job import Outcome
from common.domain.operation import OperationRef
from common.domain.plan import identity_of
from common.domain.retention import retain
from common.lxd.migration import generation_body
from workers.steps.backed_volumes import (
    as_sent,
    discard_volumes_of_generation,
    is_in_use,
    lacking_volumes,
    prune_volume_snapshots,
    prune_volumes,
)
from workers.steps.backing_up import has_arrived, release_staging
from workers.steps.context import Context
from workers.steps.copies import find_operation, remove_copy, settle_clone
from workers.steps.copying import is_received
from workers.steps.drilling import keep_outcome
from workers.steps.guard import guard, is_promoted
from workers.steps.marks import mark, unmarked


def make_generation(ctx: Context) -> Outcome:
    """The generation is there, guarded, and has nothing of the source's but its files and its definition."""
    if "strip" not in ctx.job.evidence:
        made = _clone(ctx)
        if made is not None:
            return made
    ended = ctx.settle(
        "strip",
        lambda: ctx.on_target(_strip(ctx, _own_generation(ctx))),
        blocked_on=f"what belongs to {ctx.move.origin} to leave {_where(ctx)}",
    )
    if isinstance(ended, Outcome):
        return ended
    ctx.forget("strip")
    if ended is None:
        return Outcome.again()  # nobody saw what became of it: it is made again
    if not ended.succeeded:
        raise TransferFailed(f"{_where(ctx)}: {ended.error}")
    return Outcome.completed()


def _clone(ctx: Context) -> Outcome | None:
    """None when it is made. One of which nobody saw the end is made again."""
    found = find_generation(ctx)
    if "clone" not in ctx.job.evidence:
        if found is not None:
            return discard(ctx, found) or Outcome.again()
        staging = ctx.target_instance()
        if staging is None or not has_arrived(ctx, staging):
            raise CopyLost(f"{ctx.move.target}:{ctx.move.name} has no snapshot {ctx.move.order.snapshot} any more")
        body = _body(ctx, staging)
    else:
        body = {}
    return settle_clone(
        ctx,
        lambda: ctx.on_target(ctx.target.receive(body, project=ctx.move.target_project)),
        blocked_on=f"generation {_where(ctx)}",
        failed=lambda error: TransferFailed(f"{_where(ctx)} cannot be made: {error}"),
    )


def _body(ctx: Context, staging: Instance) -> dict[str, object]:
    was = ctx.target.snapshotted(staging.name, ctx.move.order.snapshot, project=staging.project)
    masked = {name: {"type": "none"} for name in was.devices}
    return generation_body(
        ctx.move.generation,
        of=replace(staging, description=ctx.source_instance().description),
        snapshot=ctx.move.order.snapshot,
        config={**_config(ctx), "security.protection.delete": "false"},
        devices={**masked, **_devices(ctx)},
    )


def _devices(ctx: Context) -> dict[str, dict[str, str]]:
    return {**ctx.wanted_devices(ctx.source_instance()), **guard(ctx.move.type)}


def _config(ctx: Context) -> dict[str, str]:
    return {
        "boot.autostart": "false",
        BACKUP: ctx.move.order.policy,
        BACKUP_OF: ctx.move.origin,
        BACKUP_AT: ctx.move.order.at.astimezone(UTC).isoformat(),
        BACKUP_STATE: MAKING,
        BACKUP_DEFINITION: json.dumps(_definition(ctx)),
        mark("job"): ctx.job.id,
        mark("role"): "generation",
    }


def _definition(ctx: Context) -> dict[str, object]:
    """All that the files do not tell, as it was at the run's snapshot; profiles and networks as they are now."""
    now = ctx.source_instance()
    was = ctx.source.snapshotted(ctx.move.instance, ctx.move.order.snapshot, project=ctx.move.project)
    profiles = {each.name: each for each in ctx.source.profiles(project=ctx.move.project)}
    networks = {each.get("network") or each.get("parent") for each in was.expanded_devices.values()}
    defined = ctx.source.network_definitions(project=ctx.move.project)
    pools = {each.get("pool") for each in was.expanded_devices.values() if each.get("type") == "disk"}
    project = ctx.source.project_definitions()[ctx.move.project]
    return {
        "name": ctx.move.instance,
        "type": ctx.move.type,
        "project": ctx.move.project,
        "project_definition": {"description": project.description, "config": dict(project.config)},
        "identity": identity_of(now),
        "ran": was.config.get("volatile.last_state.power") == "RUNNING",
        "snapshot": ctx.move.order.snapshot,
        "architecture": was.architecture,
        "description": now.description,
        "config": {**was.own_config, **was.identity},
        "devices": {name: dict(device) for name, device in was.own_devices.items()},
        "expanded_devices": {name: dict(device) for name, device in was.expanded_devices.items()},
        "profiles": [
            {
                "name": name,
                "description": profiles[name].description,
                "config": dict(profiles[name].config),
                "devices": {device: dict(keys) for device, keys in profiles[name].devices.items()},
            }
            for name in was.own_profiles
            if name in profiles
        ],
        "networks": {
            name: {"type": each.driver, "description": each.description, "config": dict(each.config)}
            for name, each in defined.items()
            if name in networks
        },
        "pools": {pool.name: pool.driver for pool in ctx.source.pools() if pool.name in pools},
        "volumes": [
            {"pool": each.pool, "name": each.name, "kept_in": each.target_pool, "kept_as": sent.target_name}
            for each in ctx.move.volumes
            for sent in (as_sent(ctx, each),)
        ],
    }


def _strip(ctx: Context, generation: Instance) -> str:
    """A clone gets all of the snapshot's config and devices that its request does not mask."""
    kept = {key: value for key, value in generation.config.items() if key.startswith("volatile.")}
    told = {key: value for key, value in generation.config.items() if key in _config_keys(generation)}
    devices = {name: d for name, d in generation.devices.items() if is_root_disk(d) or name == GUARD_DEVICE}
    return ctx.target.replace(generation, config={**kept, **told}, devices=devices)


def _config_keys(generation: Instance) -> set[str]:
    own = {"boot.autostart", BACKUP, BACKUP_OF, BACKUP_AT, BACKUP_STATE, BACKUP_DEFINITION, mark("job"), mark("role")}
    return own & generation.config.keys()


def verify_generation(ctx: Context) -> Outcome:
    """It is a stopped instance with files, unable to start, and its definition is that of this run."""
    generation = _own_generation(ctx)
    wrong = [] if generation.is_stopped else [f"its status is {generation.status}"]
    if not generation.is_guarded:
        wrong.append("it has no guard")
    if generation.root_pool != ctx.move.pool:
        wrong.append(f"it is in pool {generation.root_pool} instead of {ctx.move.pool}")
    if generation.profiles or len(generation.devices) != len(_devices(ctx)):
        wrong.append("it has profiles or devices of its source's")
    if not is_received(generation):
        wrong.append("its server does not call it a complete copy")
    if not ctx.target.has_files(generation.name, project=generation.project):
        wrong.append("it has no files")
    try:
        told = json.loads(generation.config.get(BACKUP_DEFINITION, ""))
    except ValueError:
        told = {}
    if told.get("snapshot") != ctx.move.order.snapshot or told.get("name") != ctx.move.instance:
        wrong.append("its definition is not that of this run")
    wrong += lacking_volumes(ctx)
    if wrong:
        raise VerificationFailed(
            f"{_where(ctx)} is not what it should be: " + "; ".join(wrong),
            hint=f"`herder cancel {ctx.job.id}` removes it; what was complete before is as it was",
        )
    return Outcome.completed()


def promote(ctx: Context) -> Outcome:
    """The commit point: one change makes it a backup, which counts and is never touched again but to be pruned."""
    if is_promoted(ctx):
        return Outcome.completed()
    generation = _own_generation(ctx)
    ctx.patch_target(
        {BACKUP_STATE: COMPLETE, **unmarked(generation)}, seen=generation, look=lambda: _own_generation(ctx)
    )
    return Outcome.completed()


def prune(ctx: Context) -> Outcome:
    """What the policy does not keep goes: snapshots of its runs on the source, and its generations on the target."""
    release_staging(ctx)
    waiting = prune_snapshots(ctx) or prune_volume_snapshots(ctx) or _prune_generations(ctx)
    if waiting is not None:
        return waiting
    if ctx.move.volumes or ctx.job.facts.get("left_volumes"):
        prune_volumes(ctx)
    return Outcome.completed()


def prune_snapshots(ctx: Context) -> Outcome | None:
    """Those of this policy on the source, but never the newest that staging has too: the next delta needs it."""
    order = ctx.move.order
    if not _removes(ctx) and find_operation(ctx.source.operations(project=ctx.move.project), ctx.move.instance):
        return None  # LXD cannot delete what is being sent to another target; the next run can
    try:
        there = {each.name for each in ctx.source.snapshots(ctx.move.instance, project=ctx.move.project)}
    except NotFound:
        return None
    moments = {moment: name for name in there if (moment := moment_of(name, order.policy)) is not None}
    staged = _staged(ctx)
    needed = {max(found) for found in (moments, [m for m, name in moments.items() if name in staged]) if found}
    for moment in sorted(_superfluous(moments, ctx) - needed):
        name = moments[moment]
        waiting = _remove(
            ctx,
            f"drop:{name}",
            lambda name=name: ctx.on_source(  # type: ignore[misc]
                ctx.source.delete_snapshot(ctx.move.instance, name, project=ctx.move.project)
            ),
            f"{ctx.move.source}:{ctx.move.instance}/{name}",
        )
        if waiting is not None:
            return waiting
    return None


def _removes(ctx: Context) -> bool:
    return any(key.startswith("drop:") for key in ctx.job.evidence)


def _superfluous(moments: Iterable[datetime], ctx: Context) -> set[datetime]:
    return set(retain(moments, ctx.move.order.keep, ctx.move.order.zone).remove)


def _staged(ctx: Context) -> set[str]:
    staging = None if ctx.move.archive else ctx.target_instance()
    if staging is None:
        return set()
    return {each.name for each in ctx.target.snapshots(staging.name, project=staging.project)}


def _prune_generations(ctx: Context) -> Outcome | None:
    """Those of this policy and instance on the target, never the newest; one that is being copied waits its turn."""
    order = ctx.move.order
    here = (Generation.of(each, ctx.move.target) for each in ctx.target.instances(ctx.move.target_project))
    own = {g.at: g for g in here if g is not None and (g.policy, g.source) == (order.policy, ctx.move.origin)}
    removed = set(retain(own, order.keep_on_target, order.zone).remove) - ({max(own)} if own else set())
    keep_outcome(ctx, own, removed)
    operations = ctx.target.operations(project=ctx.move.target_project)
    for moment in sorted(removed):
        name = own[moment].name
        if f"drop:{name}" not in ctx.job.evidence:
            if find_operation(operations, name) is not None or is_in_use(operations, own[moment]):
                continue
            if own[moment].volumes:
                ctx.note(left_volumes=True)
        waiting = _remove(
            ctx,
            f"drop:{name}",
            lambda name=name: ctx.on_target(ctx.target.delete(name, project=ctx.move.target_project)),  # type: ignore[misc]
            f"{ctx.move.target}:{name}",
        )
        if waiting is not None:
            return waiting
    return None


def _remove(ctx: Context, key: str, begin: Callable[[], OperationRef], what: str) -> Outcome | None:
    """None when it is gone. Raises TransferFailed."""
    try:
        ended = ctx.settle(key, begin, blocked_on=f"the removal of {what}, which the policy does not keep")
    except NotFound:
        return None
    if isinstance(ended, Outcome):
        return ended
    ctx.forget(key)
    if ended is None:
        return Outcome.again(evidence=ctx.job.evidence)
    if not ended.succeeded:
        raise TransferFailed(f"removal of {what}: {ended.error}")
    return None


def discard_generation(ctx: Context) -> Outcome:
    """An unfinished generation goes, and the staging copy is free; one that is complete stays for good."""
    if is_promoted(ctx):
        return Outcome.goes_forward()
    waiting = discard_volumes_of_generation(ctx)
    if waiting is not None:
        return waiting
    found = find_generation(ctx)
    if found is not None:
        return discard(ctx, found) or Outcome.again()
    release_staging(ctx)
    return Outcome.completed()


def discard(ctx: Context, generation: Instance) -> Outcome | None:
    """Remove what a job of this run has begun to make. Raises IdentityMismatch for anything else."""
    if generation.config.get(BACKUP_OF) != ctx.move.origin or generation.config.get(BACKUP_STATE) != MAKING:
        raise IdentityMismatch(
            f"{_where(ctx)} is not an unfinished generation of {ctx.move.origin}; left alone",
            hint="rename or delete it; the next run makes another one",
        )
    running = find_operation(ctx.target.operations(project=ctx.move.target_project), generation.name)
    if running is not None and not ctx.job.evidence.keys() & {"remove", "rename"}:
        blocked_on = f"the end of '{running.description}' on {ctx.move.target}"
        return ctx.wait_for(ctx.on_target(running.id), blocked_on=blocked_on)
    if generation.marks.get("job") != ctx.job.id:
        # Redis was lost with the job that made it, and the plan that followed numbers its jobs in another way.
        with suppress(NotFound):  # LXD keeps a change of a wreck although it answers that it failed
            ctx.patch_target({mark("job"): ctx.job.id}, seen=generation, look=lambda: generation)
        return Outcome.again(evidence=ctx.job.evidence)
    return remove_copy(ctx, generation, lambda: find_generation(ctx))


def find_generation(ctx: Context) -> Instance | None:
    """What bears the generation's name on the target."""
    try:
        return ctx.target.instance(ctx.move.generation, project=ctx.move.target_project)
    except NotFound:
        return None


def _own_generation(ctx: Context) -> Instance:
    """Raises CopyLost."""
    found = find_generation(ctx)
    if found is None or found.marks.get("job") != ctx.job.id:
        raise CopyLost(f"{_where(ctx)} is not there any more, or is not ours")
    return found


def _where(ctx: Context) -> str:
    return f"{ctx.move.target}:{ctx.move.generation}"
