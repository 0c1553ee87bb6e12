"""Copies of this job on the target, and what else is going on with an instance there: found, removed, set aside."""

from common.domain.errors import IdentityMismatch, TransferFailed
from common.domain.instance import WRECK, Instance
from common.domain.job import Outcome
from common.domain.operation import Operation
from workers.steps.context import Context

#: Operations of people at work inside an instance; they do not stand in the way.
_HARMLESS = frozenset({"Executing command", "Showing console"})


def find_operation(operations: tuple[Operation, ...], name: str) -> Operation | None:
    """An operation on this instance that has not ended; LXD finds instances also under their old name of containers."""
    for operation in operations:
        if operation.description in _HARMLESS:
            continue
        paths = [*operation.resources.get("instances", ()), *operation.resources.get("containers", ())]
        if not operation.is_finished and any(_instance_of(path) == name for path in paths):
            return operation
    return None


def _instance_of(path: str) -> str:
    """The instance in ``/1.0/instances/NAME``, also if the path goes on to one of its snapshots."""
    return path.split("?", maxsplit=1)[0].split("/")[3]


def remove_copy(ctx: Context, copy: Instance) -> Outcome | None:
    """Delete our copy or wreck; one that cannot be deleted is renamed out of the way and reported."""
    if copy.marks.get("job") != ctx.job.id or copy.is_running:
        raise IdentityMismatch(f"{ctx.move.target}:{copy.name} is not a stopped copy of this job; left alone")
    ended = ctx.settle(
        "remove",
        lambda: ctx.on_target(ctx.target.delete(copy.name, project=copy.project)),
        blocked_on=f"removal of the unfinished copy on {ctx.move.target}",
    )
    if isinstance(ended, Outcome):
        return ended
    if ctx.target_instance() is None:
        ctx.forget("remove")
        return None
    return _set_wreck_aside(ctx, copy, ended.error if ended else "")


def _set_wreck_aside(ctx: Context, wreck: Instance, error: str) -> Outcome | None:
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
    if ctx.target_instance() is None:
        return None
    raise TransferFailed(f"{ctx.move.target}:{wreck.name} can be neither deleted nor renamed: {error}")
