"""What makes an export a generation in an archive: every byte is read again before it counts, and old ones go after it.

The other steps are those of ``exporting``.
"""

from datetime import timedelta

from common.archive.stream import verified
from common.domain.archive import Manifest, generations_prefix
from common.domain.errors import TransferFailed, VerificationFailed
from common.domain.job import Kind, Outcome
from common.domain.retention import retain
from workers.steps.context import Context
from workers.steps.exporting import is_exported, is_there, manifest_of, stream_backup
from workers.steps.generations import prune_snapshots
from workers.steps.streams import CancelledMeanwhile, kept_alive, permit, wait_for_permit

#: By then the backup on the server has expired too, and whoever still wants to finish this makes another one.
_ABANDONED_AFTER = timedelta(days=3)


def verify_export(ctx: Context) -> Outcome:
    """What the archive gives back are the bytes that the server has sent; if not, they are carried once more."""
    if is_exported(ctx):
        return Outcome.completed()
    if not is_there(ctx):
        carried = stream_backup(ctx)
        return carried if carried.kind is not Kind.COMPLETED else Outcome.again()
    with permit(ctx) as may_carry:
        if not may_carry:
            return wait_for_permit(ctx)
        try:
            for _ in verified(ctx.archive.read(ctx.move.file), manifest_of(ctx), on_piece=kept_alive(ctx)):
                pass
        except CancelledMeanwhile:
            return Outcome.again(evidence=ctx.job.evidence)
        except VerificationFailed as failed:
            ctx.confirm_fence()
            ctx.archive.discard(ctx.move.file)
            raise TransferFailed(f"{ctx.archive.where}: {failed.message}; it is carried once more") from failed
    return Outcome.completed()


def prune_archive(ctx: Context) -> Outcome:
    """What the policy does not keep goes: its generations in the archive, and files that never became one.

    So do snapshots on the source, if backups are made of them.
    """
    waiting = prune_snapshots(ctx) if ctx.move.exports_clone else None
    if waiting is not None:
        return waiting
    if "removing" in ctx.job.evidence:
        _remove(ctx, ctx.job.evidence["removing"])
    order = ctx.move.order
    prefix = generations_prefix(order, ctx.move.origin)
    own = {m.at: m for m in ctx.archive.manifests(prefix) if (m.policy, m.origin) == (order.policy, ctx.move.origin)}
    there = {at: manifest for at, manifest in own.items() if at is not None}
    newest_good = next((at for at in sorted(there, reverse=True) if _is_whole(ctx, there[at])), None)
    for at in sorted(set(retain(there, order.keep_on_target, order.zone).remove) - {newest_good}):
        _remove(ctx, there[at].file)
    for file in ctx.archive.abandoned(prefix, ctx.now() - _ABANDONED_AFTER):
        ctx.confirm_fence()
        ctx.archive.discard(file)
    return Outcome.completed()


def _is_whole(ctx: Context, manifest: Manifest) -> bool:
    return ctx.archive.size(manifest.file) == manifest.size


def _remove(ctx: Context, file: str) -> None:
    """Its manifest first: from then on it does not count, and a file of it that is left is known to be left."""
    ctx.note(evidence={"removing": file})
    ctx.confirm_fence()
    ctx.archive.withdraw(file)
    ctx.archive.discard(file)
    ctx.forget("removing")
