"""The end of a copy: it is looked at, and becomes an instance of its own. The source has nothing to do with that.

Until ``release_copy`` the copy has the guard, and a cancel removes it. From then on it is its owner's: nothing of
herder deletes it any more.
"""

from contextlib import suppress

from common.domain.eligibility import wanted_profiles
from common.domain.errors import IdentityMismatch, NotFound, VerificationFailed
from common.domain.instance import Instance
from common.domain.job import Outcome
from workers.steps.context import Context
from workers.steps.cutover import free_target, missing_snapshots
from workers.steps.guard import is_released, unguarded


def verify_copy(ctx: Context) -> Outcome:
    """The copy is stopped, and has the profiles and all snapshots that it should have."""
    copy = _guarded_copy(ctx)
    wrong = [] if copy.is_stopped else [f"its status is {copy.status}"]
    if copy.marks.get("state") != "complete":
        wrong.append("it is not marked as complete")
    with suppress(NotFound):  # its owner may have deleted the source; what both servers said of the transfer stands
        wrong += _unlike(ctx, ctx.source_instance(), copy)
    if wrong:
        raise VerificationFailed(
            f"{ctx.move.target}:{copy.name} is not what was asked for: " + "; ".join(wrong),
            hint=f"`herder retry {ctx.job.id}` looks again, `herder cancel {ctx.job.id}` removes the copy",
        )
    return Outcome.completed()


def _unlike(ctx: Context, source: Instance, copy: Instance) -> list[str]:
    """Its owner may take and delete snapshots meanwhile: those count that were there at the beginning and still are."""
    found = [] if copy.profiles == wanted_profiles(source, ctx.move) else [f"its profiles are {copy.profiles}"]
    were = {f"it lacks snapshot {name}" for name in ctx.job.facts.get("snapshots", ())}
    return found + [lack for lack in missing_snapshots(ctx) if lack in were]


def release_copy(ctx: Context) -> Outcome:
    """The commit point: the copy loses its guard and has its own autostart; it stays stopped."""
    if is_released(ctx, ctx.target_instance()):
        return Outcome.completed()
    copy = _guarded_copy(ctx)
    return free_target(ctx, copy, "released", devices=unguarded(copy)) or Outcome.completed()


def _guarded_copy(ctx: Context) -> Instance:
    """Raises IdentityMismatch."""
    copy = ctx.own_copy()
    if copy is None:
        raise IdentityMismatch(
            f"{ctx.move.target}:{ctx.move.name} is not there any more, or is not ours",
            hint=f"`herder retry {ctx.job.id}` makes it again; the source is as it was",
        )
    return copy
