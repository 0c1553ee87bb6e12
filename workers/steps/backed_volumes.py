"""The custom volumes of a backup: a snapshot of each with that of the instance, a copy of it beside the generation.

LXD 5.0 sends no snapshot of a custom volume by itself. So each is cloned on the source, which takes no room on btrfs,
and the clone is sent and removed. The copy on the target is attached by nobody and says itself which volume it is a
backup of; it counts if its generation does. What no generation has is left over from a run that broke, and is removed.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta

from common.domain.errors import IdentityMismatch, NotFound, PermanentError, ServerRefused, TransferFailed
from common.domain.generation import (
    BACKUP,
    BACKUP_AT,
    BACKUP_OF,
    BACKUP_VOLUME,
    COMPLETE,
    Generation,
    moment_of,
)
from common.domain.instance import BACKUP_STATE, Instance
from common.domain.job import Outcome
from common.domain.operation import Operation, OperationRef
from common.domain.retention import retain
from common.domain.volume import AttachedVolume, Volume
from workers.steps.context import Context
from workers.steps.marks import mark
from workers.steps.volumes import (
    begin_pass,
    busy_with,
    delete,
    find_volume,
    follow_pass,
    is_complete,
    on_target,
    patch,
    unmarked,
    wait_for_earlier,
)

#: How long after the snapshot of one volume that of the next, or of the instance, may begin.
_TOGETHER = timedelta(minutes=1)
#: How long the job of another target may have made some of the snapshots, and not all.
_PATIENCE = timedelta(minutes=2)
_SOON = timedelta(seconds=2)
_KEY = "snapshot:"


def instance_snapshots(ctx: Context) -> set[str]:
    """The names of those that the source has of the instance itself."""
    return {each.name for each in ctx.source.snapshots(ctx.move.instance, project=ctx.move.project)}


def snapshot_volumes(ctx: Context) -> Outcome | None:
    """None when each has the run's snapshot, since less than a minute. Raises TransferFailed.

    That of the instance is made right after, and says that all are there. Until then the set belongs to the job that
    makes it, as long as no minute passes without a step of it; after two the job of another target may take it over.
    """
    if "set" in ctx.job.evidence and _is_idle(ctx):
        _let_go(ctx)
        return Outcome.again()
    if ctx.job.evidence.get("wrong_set"):
        return _drop_set(ctx)
    made = ctx.job.evidence.get("set", {})
    for volume in ctx.move.volumes:
        waiting = None if made.get(str(volume)) else _snapshot(ctx, volume)
        if waiting is not None:
            return waiting
    return None


def _is_idle(ctx: Context) -> bool:
    """Whether this job did nothing with its set for so long that others may have: it is looked at like any other's."""
    if ctx.now() - datetime.fromisoformat(ctx.job.evidence["set_at"]) <= _TOGETHER:
        return False
    begun = [OperationRef(**ref) for key, ref in ctx.job.evidence.items() if key.startswith(_KEY)]
    running = (ctx.look(ref) for ref in begun)
    return not any(operation is not None and not operation.is_finished for operation in running)


def _let_go(ctx: Context) -> None:
    """What the hook has prepared is old, too."""
    pending = [key for key in ctx.job.evidence if key.startswith(_KEY)]
    ctx.forget("set", "set_at", "wrong_set", "others", "prepared", *pending)


def _note_set(ctx: Context, made: Mapping[str, bool], **more: str) -> None:
    """Which volumes have a snapshot of this job, and whether it has seen the end of that."""
    ctx.note(evidence={"set": dict(made), "set_at": ctx.now().isoformat(), **more})


def _snapshot(ctx: Context, volume: AttachedVolume) -> Outcome | None:
    """None when this job has made that of this volume."""
    key = f"{_KEY}{volume}"
    source = ctx.source.volume(volume.pool, volume.name, project=ctx.move.project)
    waiting = None if key in ctx.job.evidence else _claim(ctx, volume, source)
    if waiting is not None:
        return waiting
    try:
        ended = _settle(
            ctx,
            key,
            lambda: ctx.on_source(ctx.source.snapshot_volume(source, ctx.move.order.snapshot)),
            f"snapshot {ctx.move.order.snapshot} of volume {volume} on {ctx.move.source}",
        )
    except ServerRefused as refused:
        if ctx.move.order.snapshot not in ctx.source.volume_snapshots(source):
            raise
        return _not_made(ctx, volume, source, refused.message)
    if isinstance(ended, Outcome):
        return ended
    ctx.forget(key)
    if ended is None:
        return _start_over(ctx, "its server has forgotten it")
    if not ended.succeeded:
        return _not_made(ctx, volume, source, ended.error)
    _note_set(ctx, {**ctx.job.evidence["set"], str(volume): True})
    return None


def _not_made(ctx: Context, volume: AttachedVolume, source: Volume, why: str) -> Outcome:
    """Of a snapshot that failed nothing is left: what bears its name is another job's, which asked first.

    Two that ask at the same instant are both told that it has begun.
    """
    _note_set(ctx, {each: made for each, made in ctx.job.evidence["set"].items() if each != str(volume)})
    if ctx.move.order.snapshot in ctx.source.volume_snapshots(source):
        return _of_another(ctx)
    return _start_over(ctx, why)


def _claim(ctx: Context, volume: AttachedVolume, source: Volume) -> Outcome | None:
    """None when there is none of it, and this job has said that it makes it."""
    known = ctx.job.evidence.get("set", {})
    if ctx.move.order.snapshot in ctx.source.volume_snapshots(source):
        return _start_over(ctx, "nobody saw its end") if str(volume) in known else _of_another(ctx)
    _note_set(ctx, {**known, str(volume): False})
    return None


def _settle(ctx: Context, key: str, begin: Callable[[], OperationRef], blocked_on: str) -> Operation | Outcome | None:
    """As ``ctx.settle``, but what takes less than a second is awaited here: other snapshots follow at once."""
    ended = ctx.settle(key, begin, blocked_on=blocked_on)
    if isinstance(ended, Outcome) and ctx.lingers(ended):
        ended = ctx.settle(key, begin, blocked_on=blocked_on)
    return ended


def _of_another(ctx: Context) -> Outcome:
    """The job of another target makes the set, or has died over it; then the set is this job's."""
    at_work = [each for each in ctx.source.operations(project=ctx.move.project) if _is_of_snapshot(ctx, each)]
    progress = [sorted(each.id for each in at_work), sorted(map(str, _with_snapshot(ctx)))]
    seen = ctx.job.evidence.get("others", [[], ""])
    if at_work or seen[0] != progress:
        seen = [progress, ctx.now().isoformat()]
        ctx.note(evidence={"others": seen})
    if ctx.now() - datetime.fromisoformat(seen[1]) < _PATIENCE:
        name = f"{ctx.move.order.snapshot} of {ctx.move.instance} and its volumes"
        blocked_on = f"the job of another target, which makes snapshot {name}"
        return Outcome.wait(blocked_on, retry_in=_SOON, evidence=dict(ctx.job.evidence))
    _note_set(ctx, dict.fromkeys(map(str, ctx.move.volumes), False))
    return _start_over(ctx, "the job that began it is gone")


def _with_snapshot(ctx: Context) -> list[AttachedVolume]:
    found = []
    for volume in ctx.move.volumes:
        source = ctx.source.volume(volume.pool, volume.name, project=ctx.move.project)
        if ctx.move.order.snapshot in ctx.source.volume_snapshots(source):
            found.append(volume)
    return found


def _is_of_snapshot(ctx: Context, operation: Operation) -> bool:
    """Whether it makes or deletes a snapshot of one of the volumes; LXD does not name the pool then."""
    parts = {part for paths in operation.resources.values() for path in paths for part in path.split("/")}
    is_running = not operation.is_finished and "snapshot" in operation.description
    return is_running and any(volume.name in parts for volume in ctx.move.volumes)


def _start_over(ctx: Context, why: str) -> Outcome:
    ctx.note(evidence={"wrong_set": why})
    return _drop_set(ctx)


def _drop_set(ctx: Context) -> Outcome:
    """The snapshots of the volumes go, so that all are made again, after the hook. Raises TransferFailed at the end.

    Unless that of the instance has come meanwhile: then another job has made the whole set, and it is used.
    """
    name = ctx.move.order.snapshot
    if name in instance_snapshots(ctx):
        _let_go(ctx)
        return Outcome.again()
    for volume in ctx.move.volumes:
        known = ctx.job.evidence["set"]
        if str(volume) not in known:
            continue
        source = ctx.source.volume(volume.pool, volume.name, project=ctx.move.project)
        waiting = drop_snapshot(ctx, source, name)
        if waiting is not None:
            return waiting
        # Once it is gone, one of that name is another job's.
        _note_set(ctx, {each: made for each, made in known.items() if each != str(volume)})
    why = ctx.job.evidence["wrong_set"]
    _let_go(ctx)
    raise TransferFailed(f"{ctx.move.source}: snapshot {name} of the volumes of {ctx.move.instance}: {why}")


def drop_snapshot(ctx: Context, volume: Volume, name: str) -> Outcome | None:
    """None when a volume of the source has no such snapshot any more. Raises TransferFailed."""
    key = f"drop:{volume.place}/{name}"
    try:
        ended = ctx.settle(
            key,
            lambda: ctx.on_source(ctx.source.drop_volume_snapshot(volume, name)),
            blocked_on=f"the removal of snapshot {name} of volume {volume.place} on {ctx.move.source}",
        )
    except NotFound:
        return None
    if isinstance(ended, Outcome):
        return ended
    ctx.forget(key)
    if ended is None:
        return Outcome.again(evidence=ctx.job.evidence)
    if not ended.succeeded:
        raise TransferFailed(f"{ctx.move.source}: removal of {volume.place}/{name}: {ended.error}")
    return None


def back_up_volumes(ctx: Context) -> Outcome:
    """Beside the generation there is a whole copy of each volume, as it was at the run's snapshot."""
    going = {volume: as_sent(ctx, volume) for volume in ctx.move.volumes}
    if "receive" in ctx.job.evidence:
        return follow_pass(ctx, going.values())
    for volume, sent in going.items():
        copy = _own_copy(ctx, sent)
        if copy is not None and is_complete(copy):
            drop_clone(ctx, sent)
            continue
        waiting = wait_for_earlier(ctx, sent)
        if waiting is not None:
            return waiting
        if copy is not None:
            _delete(ctx, copy)
        return _clone(ctx, volume, sent) or begin_pass(ctx, sent)
    return Outcome.completed()


def as_sent(ctx: Context, volume: AttachedVolume) -> AttachedVolume:
    """What is sent in place of a volume, and what that is called on the target."""
    order, origin = ctx.move.order, ctx.move.origin
    return AttachedVolume(
        pool=volume.pool,
        name=order.clone_of(origin, str(volume), ctx.move.target),
        target_pool=volume.target_pool,
        new_name=order.volume_of(origin, str(volume)),
    )


def _own_copy(ctx: Context, sent: AttachedVolume) -> Volume | None:
    """What a job of this run has received, whichever: Redis may have been lost meanwhile. Raises IdentityMismatch."""
    copy = on_target(ctx, sent)
    if copy is not None and not _is_of_this_run(ctx, copy):
        raise IdentityMismatch(
            f"{ctx.move.target} has a volume {copy.place} that is no backup of {ctx.move.origin}",
            hint=f"rename or delete it, then `herder retry {ctx.job.id}`",
        )
    return copy


def _is_of_this_run(ctx: Context, volume: Volume) -> bool:
    return _is_ours(ctx, volume) and volume.config.get(BACKUP_AT) == _at(ctx)


def _is_ours(ctx: Context, volume: Volume) -> bool:
    """Whether it is of a backup of this policy and instance."""
    told = (volume.config.get(BACKUP), volume.config.get(BACKUP_OF))
    return told == (ctx.move.order.policy, ctx.move.origin)


def _at(ctx: Context) -> str:
    return ctx.move.order.at.astimezone(UTC).isoformat()


def _clone(ctx: Context, volume: AttachedVolume, sent: AttachedVolume) -> Outcome | None:
    """None when the clone is there and whole. Raises TransferFailed, and PermanentError without a snapshot."""
    snapshot, key = ctx.move.order.snapshot, f"clone:{volume}"
    source = ctx.source.volume(volume.pool, volume.name, project=ctx.move.project)
    made = source
    if key not in ctx.job.evidence:
        found = find_volume(ctx.source, sent.pool, sent.name, ctx.move.project)
        if found is not None:
            if is_complete(found):
                return None
            _delete(ctx, found, of_source=True)
        made = _as_clone(ctx, source, sent)
    ended = _settle(
        ctx,
        key,
        lambda: ctx.on_source(ctx.source.clone_volume(made, of=source, snapshot=snapshot)),
        f"a clone of {volume}/{snapshot} on {ctx.move.source}",
    )
    if isinstance(ended, Outcome):
        return ended
    ctx.forget(key)
    if ended is None:
        return Outcome.again(evidence=ctx.job.evidence)
    if not ended.succeeded:
        raise TransferFailed(f"{ctx.move.source}: {volume}/{snapshot} cannot be cloned: {ended.error}")
    clone = ctx.source.volume(sent.pool, sent.name, project=ctx.move.project)
    patch(ctx, ctx.source, clone, lambda _: {mark("state"): "complete"})
    return None


def _as_clone(ctx: Context, source: Volume, sent: AttachedVolume) -> Volume:
    """Nothing of the volume's config, for example a schedule, does anything to a backup; it is told in one key."""
    try:
        was = ctx.source.snapshotted_volume(source, ctx.move.order.snapshot)
    except NotFound as gone:
        raise PermanentError(
            f"{ctx.move.source}: volume {source.place} has no snapshot {ctx.move.order.snapshot} any more",
            hint="the next run makes a newer backup; `herder cancel` ends this one",
        ) from gone
    told = {"pool": source.pool, "name": source.name, "description": source.description, "config": was.own_config}
    return Volume(
        pool=sent.pool,
        name=sent.name,
        project=ctx.move.project,
        content_type=source.content_type,
        member=source.member,
        config={
            **was.owners,
            BACKUP: ctx.move.order.policy,
            BACKUP_OF: ctx.move.origin,
            BACKUP_AT: _at(ctx),
            BACKUP_VOLUME: json.dumps(told),
            mark("job"): ctx.job.id,
            mark("role"): "clone",
        },
    )


def drop_clone(ctx: Context, sent: AttachedVolume) -> None:
    """What was sent in place of a volume goes."""
    clone = find_volume(ctx.source, sent.pool, sent.name, ctx.move.project)
    if clone is not None and _is_of_this_run(ctx, clone):
        _delete(ctx, clone, of_source=True)


def _delete(ctx: Context, volume: Volume, *, of_source: bool = False) -> None:
    """Raises IdentityMismatch if somebody attaches it."""
    client = ctx.source if of_source else ctx.target
    if not delete(ctx, client, volume):
        raise IdentityMismatch(
            f"{client.remote}: volume {volume.place}, of a backup, is attached by {', '.join(volume.other_users())}",
            hint=f"detach it there, then `herder retry {ctx.job.id}`",
        )


def lacking_volumes(ctx: Context) -> list[str]:
    """A sentence for each volume of which there is no whole copy beside the generation."""
    found = []
    for volume in ctx.move.volumes:
        copy = _own_copy(ctx, as_sent(ctx, volume))
        if copy is None or not is_complete(copy) or copy.original is None:
            found.append(f"it has no complete copy of volume {volume}")
    return found


def discard_volumes_of_generation(ctx: Context) -> Outcome | None:
    """None when nothing of this run is left but its snapshots, which other targets' jobs use too."""
    for volume in ctx.move.volumes:
        sent = as_sent(ctx, volume)
        waiting = wait_for_earlier(ctx, sent)
        if waiting is not None:
            return waiting
        copy = on_target(ctx, sent)
        if copy is not None and _is_of_this_run(ctx, copy):
            _delete(ctx, copy)
        drop_clone(ctx, sent)
    return None


def prune_volume_snapshots(ctx: Context) -> Outcome | None:
    """What the policy does not keep goes, as of the instance, but never the newest. None when it is gone."""
    if not ctx.move.volumes:
        return None
    order = ctx.move.order
    of_instance = instance_snapshots(ctx)
    for volume in ctx.move.volumes:
        source = find_volume(ctx.source, volume.pool, volume.name, ctx.move.project)
        if source is None:
            continue
        own = ctx.source.volume_snapshots(source)
        moments = {moment: name for name in own | of_instance if (moment := moment_of(name, order.policy)) is not None}
        for moment in retain(moments, order.keep, order.zone).remove:
            if moments[moment] in own and moment != max(moments):
                waiting = drop_snapshot(ctx, source, moments[moment])
                if waiting is not None:
                    return waiting
    return None


def is_in_use(operations: Iterable[Operation], generation: Generation) -> bool:
    """Whether a volume beside this generation is being copied."""
    return any(busy_with(operations, *place.split("/", 1)) for place in generation.volumes.values())


def prune_volumes(ctx: Context) -> None:
    """Those beside a complete generation are nobody's job any more; those of no generation go.

    The volumes are listed before the generations: one that is there by then had its generation before it.
    """
    beside = _beside_generations(ctx)
    generations = ctx.target.instances(ctx.move.target_project) if beside else ()
    ours = (each for each in generations if each.config.get(BACKUP_OF) == ctx.move.origin)
    by_moment = {each.config.get(BACKUP_AT): each for each in ours if each.config.get(BACKUP) == ctx.move.order.policy}
    operations = ctx.target.operations(project=ctx.move.target_project) if beside else ()
    for volume in beside:
        generation = by_moment.get(volume.config[BACKUP_AT])
        if generation is None:
            if busy_with(operations, volume.pool, volume.name) is None:
                _delete(ctx, volume)
        elif _is_complete(generation) and volume.marks:
            patch(ctx, ctx.target, volume, unmarked)


def _is_complete(generation: Instance | None) -> bool:
    return generation is not None and generation.config.get(BACKUP_STATE) == COMPLETE


def _beside_generations(ctx: Context) -> list[Volume]:
    volumes = ctx.target.volumes(project=ctx.move.target_project)
    return [each for each in volumes if _is_ours(ctx, each) and each.original is not None]
