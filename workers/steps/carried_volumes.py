"""Custom volumes that go as backups, because the target crashes when it is sent one: a worker carries each of them.

The source writes a backup file, this process streams it into the target, and that makes a volume of it, which bears the
source's config and marks from its first moment and is whole only at its end. So it has a name of this job's until the
success of its operation has been seen and it bears the marks of a copy. Then it takes the place of the empty volume
that has kept its name free. Who attaches them is told so at the release of the copy, and not before.

All that is made on the way has a number that no other try has; what is left over goes when the volumes have arrived, or
with the copy.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from common.domain.errors import IdentityMismatch, NotFound, OperationLost, OutOfSpace, ServerRefused, TransferFailed
from common.domain.instance import IMPORTED
from common.domain.job import Outcome, Pass
from common.domain.operation import OperationRef
from common.domain.volume import AttachedVolume, Volume
from common.domain.volume_ways import why_as_backup
from workers.steps.context import LOOK_AGAIN, Context
from workers.steps.copies import IS_THERE
from workers.steps.marks import mark
from workers.steps.streams import CancelledMeanwhile, kept_alive, limited, permit, wait_for_permit, whole
from workers.steps.volumes import (
    FINAL_STEP,
    busy_with,
    claimed,
    delete,
    find_volume,
    is_complete,
    make_empty,
    marks_of_copy,
    name_there,
    ours_on_target,
    patch,
    rename,
    wait_for_source,
    wanted_volume,
)

#: Should nobody ever come back to this job, its backups do not fill the server for ever.
_EXPIRES_AFTER = timedelta(days=3)
_FULL = "no space left on device"
_NAME_KEPT = 30
_STATES = "carried"

State = dict[str, Any]


def goes_as_backup(ctx: Context) -> bool:
    """Whether the volumes of this job are carried; asked of the servers once, before anything is down."""
    if not ctx.move.volumes or ctx.move.is_local:
        return False
    if "as_backup" not in ctx.job.facts:
        is_carried = bool(why_as_backup(ctx.source.info(), ctx.target.info()))
        ctx.note(as_backup=is_carried, optimized=list(map(str, _optimized(ctx))) if is_carried else [])
    return bool(ctx.job.facts["as_backup"])


def _optimized(ctx: Context) -> Iterator[AttachedVolume]:
    """Those whose backups are in their pools' own format: smaller, faster, and exact in the times of files."""
    here, there = ({pool.name: pool.driver for pool in client.pools()} for client in (ctx.source, ctx.target))
    for volume in ctx.move.volumes:
        drivers = {here.get(volume.pool, ""), there.get(volume.target_pool, "")}
        if drivers in ({"btrfs"}, {"zfs"}):
            yield volume


def carry_each(ctx: Context, is_done: Callable[[Volume], bool]) -> Outcome:
    """Drive all volumes whose copies are not done: the servers work on them side by side, one stream at a time."""
    for volume in ctx.move.volumes:
        if str(volume) not in _states(ctx):
            copy = ours_on_target(ctx, volume)
            if copy is None or not is_done(copy):
                _begin(ctx, volume, copy)
    waiting: list[OperationRef] = []
    for volume in ctx.move.volumes:
        if str(volume) in _states(ctx):
            gone_on = _go_on(ctx, volume)
            if isinstance(gone_on, Outcome):
                return gone_on
            waiting.append(gone_on)
    return _until_over(ctx, waiting) if waiting else Outcome.completed()


def is_carrying(ctx: Context) -> bool:
    """Whether it is at work on at least one."""
    return bool(_states(ctx))


def _until_over(ctx: Context, waiting: list[OperationRef]) -> Outcome:
    names = ", ".join(_states(ctx))
    outcome = Outcome.wait(
        f"volume {names} as a backup from {ctx.move.source} to {ctx.move.target}",
        retry_in=LOOK_AGAIN,
        operations=tuple(waiting),
        evidence=dict(ctx.job.evidence),
    )
    if ctx.job.is_down and ctx.lingers(replace(outcome, operations=outcome.operations[:1])):
        return Outcome.again(evidence=ctx.job.evidence)
    return outcome


def _states(ctx: Context) -> dict[str, State]:
    states: dict[str, State] = ctx.job.evidence.get(_STATES, {})
    return states


def _note(ctx: Context, volume: AttachedVolume, **told: Any) -> None:
    """Remember how far this volume is."""
    states = _states(ctx)
    ctx.note(evidence={_STATES: {**states, str(volume): {**states.get(str(volume), {}), **told}}})


def _forget(ctx: Context, volume: AttachedVolume) -> None:
    """The next run begins it anew, if its copy is not done."""
    ctx.note(evidence={_STATES: {name: state for name, state in _states(ctx).items() if name != str(volume)}})


def _next_number(ctx: Context) -> int:
    number = int(ctx.job.facts.get("next_pass", 0))
    ctx.note(next_pass=number + 1)
    return number


def _begin(ctx: Context, volume: AttachedVolume, copy: Volume | None) -> None:
    """Its name on the target is taken, and the source has begun to write the backup."""
    source = claimed(ctx, volume)
    if copy is None:
        make_empty(ctx, volume, source)
    backup, began = f"{_beginning(ctx)}{_next_number(ctx)}", ctx.now()
    ctx.confirm_fence()
    try:
        making = ctx.source.back_volume_up(
            source,
            backup,
            expires_at=began + _EXPIRES_AFTER,
            volume_only=ctx.move.overrides.instance_only,
            optimized=str(volume) in ctx.job.facts["optimized"],
        )
    except ServerRefused as refused:
        if IS_THERE in refused.message:  # Redis has lost that its number was used
            raise TransferFailed(refused.message) from refused
        raise
    _note(ctx, volume, backup=backup, making=making, began=began.isoformat())


def _beginning(ctx: Context) -> str:
    """What the names of all backups of this job on the source begin with."""
    return f"herder-{ctx.job.id}-"


def _go_on(ctx: Context, volume: AttachedVolume) -> OperationRef | Outcome:
    """As far as it goes: what it waits for then, or an outcome for the whole step."""
    state = _states(ctx)[str(volume)]
    if not state.get("is_made"):
        making = ctx.on_source(state["making"])
        if not _is_over(ctx, volume, making, "backup"):
            return making
        _note(ctx, volume, is_made=True)
    if "restoring" not in state:
        hindered = _send(ctx, volume)
        if hindered is not None:
            return hindered
    state = _states(ctx)[str(volume)]
    if not state.get("is_restored"):
        restoring = ctx.on_target(state["restoring"])
        if not _is_over(ctx, volume, restoring, "restore"):
            return restoring
        _note(ctx, volume, is_restored=True)
    return _accept(ctx, volume)


def _is_over(ctx: Context, volume: AttachedVolume, ref: OperationRef, what: str) -> bool:
    """Whether it has ended well. Raises TransferFailed, OutOfSpace, and OperationLost if nobody saw its end."""
    ended = ctx.look(ref)
    if ended is not None and (not ended.is_finished or ended.succeeded):
        return ended.is_finished
    _forget(ctx, volume)
    if ended is None:
        raise OperationLost(f"{ref.remote} forgot how the {what} of volume {volume} ended; another one is made")
    raise _failure(ctx, f"{ref.remote}: {what} of volume {volume}: {ended.error}")


def _failure(ctx: Context, text: str) -> TransferFailed | OutOfSpace:
    if _FULL not in text.lower():
        return TransferFailed(text)
    return OutOfSpace(
        text,
        hint=f"{ctx.move.source} and {ctx.move.target} need room for the backup where they keep backups, and "
        f"{ctx.move.target} for the volume in its pool; then `herder retry {ctx.job.id}`",
    )


def _send(ctx: Context, volume: AttachedVolume) -> Outcome | None:
    """None when the target has all of the backup, and makes a volume of it."""
    earlier = _states(ctx)[str(volume)].get("imported")
    if earlier is not None:  # nobody knows what has come of it
        remaining = _remove(ctx, volume.target_pool, earlier)
        if remaining is not None:
            return remaining
    with permit(ctx) as may_carry:
        if not may_carry:
            return wait_for_permit(ctx)
        number = _next_number(ctx)
        name = IMPORTED.format(volume.target_name[:_NAME_KEPT], ctx.job.id, number)
        _note(ctx, volume, imported=name, number=number)
        try:
            _stream(ctx, volume, name)
        except CancelledMeanwhile:
            return Outcome.again(evidence=ctx.job.evidence)
    return None


def _stream(ctx: Context, volume: AttachedVolume, name: str) -> None:
    backup = _states(ctx)[str(volume)]["backup"]
    with ExitStack() as reading:
        try:
            size, pieces = reading.enter_context(ctx.source.read_volume_backup(_on_source(ctx, volume), backup))
        except NotFound as gone:
            _forget(ctx, volume)
            raise OperationLost(f"{gone.message}: the backup of volume {volume}; another one is made") from gone
        coming = whole(limited(pieces, ctx.move.policy.rate), size, on_piece=kept_alive(ctx))
        ctx.confirm_fence()
        try:
            restoring = ctx.target.restore_volume(
                name, coming, pool=volume.target_pool, project=ctx.move.target_project
            )
        except ServerRefused as refused:
            raise _failure(ctx, refused.message) from refused
    _note(ctx, volume, restoring=restoring, sent=size)


def _on_source(ctx: Context, volume: AttachedVolume) -> Volume:
    return Volume(pool=volume.pool, name=volume.name, project=ctx.move.project)


def _accept(ctx: Context, volume: AttachedVolume) -> Outcome:
    """The volume is whole: it gets the marks of a copy, and the name that an empty one has kept free."""
    state = _states(ctx)[str(volume)]
    made = find_volume(ctx.target, volume.target_pool, state["imported"], ctx.move.target_project)
    there = ours_on_target(ctx, volume)
    if made is not None:
        _mark_complete(ctx, volume, made, int(state["number"]))
        if there is not None and not delete(ctx, ctx.target, there):
            raise IdentityMismatch(
                f"{ctx.move.target}: volume {there.place} is in use by {', '.join(there.used_by)}",
                hint=f"detach it there, then `herder retry {ctx.job.id}`",
            )
        ctx.confirm_fence()
        rename(ctx, made, name_there(ctx, volume))
    elif there is None or not is_complete(there):
        _forget(ctx, volume)
        raise OperationLost(f"{ctx.move.target} has no volume {state['imported']} any more; another one is made")
    began = datetime.fromisoformat(state["began"])
    done = Pass(number=int(state["number"]), kind="volume", took=ctx.now() - began, sent=int(state["sent"]))
    _forget(ctx, volume)
    ctx.note(way=f"backup: a worker carries it from {ctx.move.source} to {ctx.move.target}")
    return Outcome.again(finished_pass=done, evidence=ctx.job.evidence)


def _mark_complete(ctx: Context, volume: AttachedVolume, made: Volume, number: int) -> None:
    """It has the config and description that the copy shall have, and nothing of what herder wrote on the source."""
    source = ctx.source.volume(volume.pool, volume.name, project=ctx.move.project)
    wanted = wanted_volume(ctx, volume, source)
    last_word = ctx.job.facts.get("last_used", "") if ctx.job.step == FINAL_STEP else ""
    marks = marks_of_copy(ctx, source, number=number) | {mark("state"): "complete", mark("of"): last_word}
    shall_be = {**wanted.own_config, **marks}

    def changes(known: Volume) -> dict[str, str]:
        gone = (key for key in known.config if key not in shall_be and not key.startswith("volatile."))
        return {**dict.fromkeys(gone, ""), **shall_be}

    patch(ctx, ctx.target, made, changes, description=wanted.description)


def drop_leftovers(ctx: Context) -> Outcome | None:
    """None when nothing of what was made on the way is left, neither on the target nor on the source."""
    if not goes_as_backup(ctx):
        return None
    of_job = IMPORTED.format("", ctx.job.id, "")
    for left in ctx.target.volumes(project=ctx.move.target_project):
        if of_job in left.name:
            remaining = _remove(ctx, left.pool, left.name)
            if remaining is not None:
                return remaining
    for volume in ctx.move.volumes:
        remaining = _drop_backups(ctx, volume)
        if remaining is not None:
            return remaining
    return None


def _remove(ctx: Context, pool: str, name: str) -> Outcome | None:
    """None when the target has no such volume. What is being restored cannot be cancelled, and is waited for."""
    busy = busy_with(ctx.target.operations(project=ctx.move.target_project), pool, name)
    if busy is not None:
        blocked_on = f"the end of '{busy.description}' of volume {pool}/{name} on {ctx.move.target}"
        return ctx.wait_for(ctx.on_target(busy.id), blocked_on=blocked_on, retry_in=timedelta(seconds=1))
    left = find_volume(ctx.target, pool, name, ctx.move.target_project)
    if left is not None and not delete(ctx, ctx.target, left):
        raise IdentityMismatch(
            f"{ctx.move.target}: the unfinished volume {left.place} is in use by {', '.join(left.used_by)}",
            hint=f"detach it there, then `herder retry {ctx.job.id}`",
        )
    return None


def _drop_backups(ctx: Context, volume: AttachedVolume) -> Outcome | None:
    for backup in _own_backups(ctx, volume):
        waiting = wait_for_source(ctx, volume)
        if waiting is not None and "drop" not in ctx.job.evidence:
            return waiting
        try:
            ended = ctx.settle(
                "drop",
                lambda backup=backup: ctx.on_source(  # type: ignore[misc]
                    ctx.source.drop_volume_backup(_on_source(ctx, volume), backup)
                ),
                blocked_on=f"the removal of the backup of volume {volume} on {ctx.move.source}",
            )
        except NotFound:
            continue
        if isinstance(ended, Outcome):
            return ended
        ctx.forget("drop")
        if ended is not None and not ended.succeeded:
            raise TransferFailed(f"{ctx.move.source}: removal of backup {backup} of volume {volume}: {ended.error}")
        return Outcome.again(evidence=ctx.job.evidence)
    return None


def _own_backups(ctx: Context, volume: AttachedVolume) -> Iterator[str]:
    try:
        found = ctx.source.volume_backups(_on_source(ctx, volume))
    except NotFound:
        return
    yield from sorted(each for each in found if each.startswith(_beginning(ctx)))
