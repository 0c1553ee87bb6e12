"""Copies of this job on the target, and what else is going on with an instance there: found, removed, set aside."""

from collections.abc import Callable
from datetime import timedelta

from common.domain.errors import HerderError, IdentityMismatch, NotFound, TransferFailed
from common.domain.instance import WRECK, Instance
from common.domain.job import Outcome
from common.domain.operation import Operation, OperationRef
from workers.steps.context import Context

#: What a server says if a name is taken.
IS_THERE = "already exists"
#: What a server calls a command that runs inside an instance.
COMMAND = "Executing command"
#: Operations of people at work inside an instance; they do not stand in the way.
_HARMLESS = frozenset({COMMAND, "Showing console"})


def find_operation(operations: tuple[Operation, ...], name: str) -> Operation | None:
    """An operation on this instance that has not ended."""
    for operation in operations:
        if operation.description in _HARMLESS:
            continue
        if not operation.is_finished and name in operation.instances:
            return operation
    return None


def settle_clone(
    ctx: Context,
    receive: Callable[[], OperationRef],
    *,
    blocked_on: str,
    failed: Callable[[str], HerderError],
) -> Outcome | None:
    """None when its server has made the clone that is asked for once. Raises what ``failed`` makes of its words.

    One of which nobody saw the end is made again by the next run.
    """
    ended = ctx.settle("clone", receive, blocked_on=blocked_on)
    if isinstance(ended, Outcome):
        return ended
    ctx.forget("clone")
    if ended is None:
        return Outcome.again(evidence=ctx.job.evidence)
    if not ended.succeeded:
        raise failed(ended.error)
    return None


def kept_copy(ctx: Context) -> Instance | None:
    """What the copy was before its refresh, or None; whole or not."""
    try:
        found = ctx.target.instance(ctx.job.kept_name, project=ctx.move.target_project)
    except NotFound:
        return None
    return found if found.marks.get("job") == ctx.job.id else None


def is_whole(kept: Instance | None) -> bool:
    """Whether what is kept was seen to be complete."""
    return kept is not None and kept.marks.get("role") == "kept" and kept.marks.get("state") == "complete"


def remove_copy(ctx: Context, copy: Instance, look: Callable[[], Instance | None] | None = None) -> Outcome | None:
    """Delete our copy or wreck; one that cannot be deleted is renamed out of the way and reported.

    ``look`` finds it again, if it is not the copy.
    """
    look = look or ctx.target_instance
    if copy.marks.get("job") != ctx.job.id or copy.is_running:
        raise IdentityMismatch(f"{ctx.move.target}:{copy.name} is not a stopped copy of this job; left alone")
    try:
        ended = ctx.settle(
            "remove",
            lambda: ctx.on_target(ctx.target.delete(copy.name, project=copy.project)),
            blocked_on=f"removal of the unfinished copy on {ctx.move.target}",
        )
    except NotFound as error:
        if look() is not None:
            raise TransferFailed(error.message) from error
        ended = None  # its server has removed what it did not receive whole
    if isinstance(ended, Outcome):
        return ended
    if look() is None:
        ctx.forget("remove")
        return None
    return _set_wreck_aside(ctx, copy, ended.error if ended else "", look)


def free_name(ctx: Context, found: Instance | None, reserve: Callable[[], object]) -> Outcome | None:
    """Rename a volume out of the way that has a record, but no instance; None when that is done.

    LXD 5.0.2 leaves it when a source dies while the last of its copy arrives; with the name no other copy can be made,
    and no request reaches it. ``reserve`` makes an instance of that name for 10 s, and what is renamed then takes the
    volume along. It is never deleted: nothing proves whose it is.
    """
    if found is not None:
        if found.marks.get("job") != ctx.job.id:
            raise IdentityMismatch(f"{ctx.move.target}:{found.name} is not a copy of this job; left alone")
        return _set_wreck_aside(ctx, found, "", ctx.target_instance) or Outcome.again(evidence=ctx.job.evidence)
    running = find_operation(ctx.target.operations(project=ctx.move.target_project), ctx.job.copy_name)
    if running is not None:
        blocked_on = f"the end of '{running.description}' on {ctx.move.target}"
        return ctx.wait_for(ctx.on_target(running.id), blocked_on=blocked_on, retry_in=timedelta(seconds=2))
    if not ctx.job.evidence.get("reserved"):
        ctx.confirm_fence()
        reserve()
        return Outcome.again(evidence={**ctx.job.evidence, "reserved": True})
    ctx.forget("reserved", "rename", "aside")
    ctx.note(still_there=0)
    return None


def _set_wreck_aside(ctx: Context, wreck: Instance, error: str, look: Callable[[], Instance | None]) -> Outcome | None:
    """On btrfs, a copy whose daemon was killed while it received snapshots can never be deleted, but be renamed."""
    known = list(ctx.job.facts.get("wrecks", []))
    aside = ctx.job.evidence.get("aside") or f"{WRECK.format(wreck.name[:40], ctx.job.id)}{len(known) + 1}"
    if "aside" not in ctx.job.evidence:
        # Reported before it is done: a worker that dies right after would find nothing under the old name.
        ctx.note(evidence={"aside": aside}, wrecks=[*known, f"{ctx.move.target}:{aside}"])
    ended = ctx.settle(
        "rename",
        lambda: ctx.on_target(ctx.target.rename(wreck.name, aside, project=wreck.project)),
        blocked_on=f"setting the wreck {aside} aside on {ctx.move.target}",
    )
    if isinstance(ended, Outcome):
        return ended
    ctx.forget("remove", "rename", "aside")
    if look() is None:
        return None
    raise TransferFailed(f"{ctx.move.target}:{wreck.name} can be neither deleted nor renamed: {error}")
