"""The lines of shell that a backup policy runs inside the instance around its snapshot. Used by ``backing_up``."""

from collections.abc import Sequence
from datetime import datetime

from common.domain.errors import TransferFailed
from common.domain.job import Outcome
from workers.steps.context import Context


def run_hook(ctx: Context, which: str, lines: Sequence[str]) -> Outcome | None:
    """Run the lines ``which`` are before or after the snapshot; None when they have ended well.

    Raises TransferFailed if one fails, or if they take longer than the hook's timeout.
    """
    if not lines:
        return None
    began = f"{which}_since"
    if began not in ctx.job.evidence:
        ctx.note(evidence={began: ctx.now().isoformat()})
    ended = ctx.settle(
        which,
        lambda: ctx.on_source(
            ctx.source.execute(ctx.move.instance, ["sh", "-ec", "\n".join(lines)], project=ctx.move.project)
        ),
        blocked_on=f"the hook {which} the snapshot of {ctx.move.source}:{ctx.move.instance}",
    )
    if isinstance(ended, Outcome):
        patience = ctx.move.order.hook.timeout
        if ctx.now() - datetime.fromisoformat(ctx.job.evidence[began]) <= patience:
            return ended
        failure = f"it has not ended after {patience.total_seconds():.0f} s"
    elif ended is None:
        failure = "its server has forgotten how it ended"
    elif ended.metadata.get("return") == 0:
        ctx.forget(which, began)
        return None
    else:
        failure = ended.error or f"exit code {ended.metadata.get('return')}"
    ctx.forget(which, began)
    raise TransferFailed(f"{ctx.move.source}:{ctx.move.instance}: the hook {which} its snapshot: {failure}")
