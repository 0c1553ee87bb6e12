"""What a server that died has left of a copy or of a snapshot, told by the words in which LXD 5.0.2 complains of it.

Used by ``preflight`` and ``copying``. A copy beyond repair is set aside by ``copies`` and made again.
"""

from common.domain.errors import TransferFailed
from common.domain.job import Outcome
from workers.steps.context import Context
from workers.steps.marks import is_own_snapshot

#: What a refresh can leave of a copy on btrfs in LXD 5.0.2, which can then be renamed and no more: if the source died,
#: a snapshot's volume without the snapshot; if the target did while it exchanged the volume for the new one, none.
_SIGNS = (
    "record count doesn't match",
    "UNIQUE constraint failed: storage_volumes_snapshots",
    "Could not get subvolume flags",
)


def is_beyond_repair(text: str) -> bool:
    """Whether an error says that an instance and its volumes do not match any more."""
    return any(sign in text for sign in _SIGNS)


def drop_newest_snapshot(ctx: Context) -> Outcome:
    """A daemon that died while it made a snapshot has left a record without a volume: of a source that heals all.

    Raises TransferFailed if it was none of ours.
    """
    there = [s.name for s in ctx.source.snapshots(ctx.move.instance, project=ctx.move.project)]
    own = [name for name in there if is_own_snapshot(ctx.job, name)]
    if not own:
        raise TransferFailed(f"{ctx.move.source}:{ctx.move.instance} has a broken snapshot: one of {', '.join(there)}")
    # Those of a policy's runs have their moments in their names, all of one length.
    newest = max(own, key=lambda name: (0 if ctx.move.backup else int(name.rpartition("-")[2]), name))
    ended = ctx.settle(
        "drop",
        lambda: ctx.on_source(ctx.source.delete_snapshot(ctx.move.instance, newest, project=ctx.move.project)),
        blocked_on=f"the removal of the broken snapshot {newest} on {ctx.move.source}",
    )
    if isinstance(ended, Outcome):
        return ended
    ctx.forget("drop")
    if ended is not None and not ended.succeeded:
        raise TransferFailed(f"{ctx.move.source}: removal of the broken snapshot {newest}: {ended.error}")
    return Outcome.again(evidence=ctx.job.evidence)
