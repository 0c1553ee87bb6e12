"""The steps about custom volumes for which it matters how those go: directly, or as backups."""

from collections.abc import Callable

from common.domain.job import Outcome
from common.domain.volume import Volume
from workers.steps.carried_volumes import carry_each, drop_leftovers, goes_as_backup, is_carrying
from workers.steps.context import Context
from workers.steps.cutover import check_untouched
from workers.steps.volumes import discard_volumes, is_complete, is_last_word, let_volumes_go, send_each


def copy_volumes(ctx: Context) -> Outcome:
    """Each volume with its snapshots; what is complete is not sent again."""
    return send_volumes(ctx, is_complete)


def final_volumes(ctx: Context) -> Outcome:
    """What the stopped source has written to the custom volumes that it attaches, until its end."""
    if "receive" not in ctx.job.evidence and not is_carrying(ctx):
        check_untouched(ctx, ctx.source_instance())
    return send_volumes(ctx, lambda copy: is_last_word(ctx, copy))


def send_volumes(ctx: Context, is_done: Callable[[Volume], bool]) -> Outcome:
    """Drive what is under way, or begin with those whose copies are not done."""
    return carry_each(ctx, is_done) if goes_as_backup(ctx) else send_each(ctx, is_done)


def release_volumes(ctx: Context) -> Outcome:
    """The copies are their owner's; those on the source are kept or go with it, as the plan says."""
    return drop_leftovers(ctx) or let_volumes_go(ctx)


def discard_sent_volumes(ctx: Context) -> Outcome:
    """The copies that this job has made go, with all that it has made for them; nothing else does."""
    return drop_leftovers(ctx) or discard_volumes(ctx)
