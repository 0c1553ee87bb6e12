"""The end of a copy: it is looked at, and becomes an instance of its own. The source has nothing to do with that.

Until ``release_copy`` the copy has the guard, and a cancel removes it. From then on it is its owner's: nothing of
herder deletes it any more.
"""

from contextlib import suppress

from common.domain.eligibility import wanted_profiles
from common.domain.errors import CopyLost, IdentityMismatch, NotFound, ServerRefused, VerificationFailed
from common.domain.instance import FAILED_OVER_BY, REFRESHED_BY, Instance
from common.domain.job import Outcome
from workers.steps.context import Context
from workers.steps.cutover import free_target, missing_snapshots
from workers.steps.guard import is_released, unguarded
from workers.steps.marks import LEAVING, mark


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
    return found + [lack for lack in missing_snapshots(ctx, source, copy) if lack in were]


def release_copy(ctx: Context) -> Outcome:
    """The commit point: the copy loses its guard and has its own autostart; it stays stopped."""
    if is_released(ctx, ctx.target_instance()):
        return Outcome.completed()
    copy = _guarded_copy(ctx)
    if copy.marks.get("state") == LEAVING:
        raise IdentityMismatch(
            f"{ctx.move.target}:{copy.name} is being put back as it was", hint=f"`herder cancel {ctx.job.id}`"
        )
    told = {REFRESHED_BY: ctx.job.id} if ctx.move.is_refresh else {}
    told |= {FAILED_OVER_BY: ctx.job.id} if ctx.move.failover else {}
    return free_target(ctx, copy, "released", devices=unguarded(copy), told=told) or Outcome.completed()


def _guarded_copy(ctx: Context) -> Instance:
    """Raises CopyLost."""
    copy = ctx.own_copy()
    if copy is None:
        raise CopyLost(f"{ctx.move.target}:{ctx.move.name} is not there any more, or is not ours")
    return copy


def keep_from_release(ctx: Context, copy: Instance) -> None:
    """Another ETag: a release that was asked for and has not begun is refused. Wrecks refuse it, and need it not."""
    if copy.marks.get("state") != LEAVING:
        with suppress(NotFound, ServerRefused):
            ctx.patch_target({mark("state"): LEAVING}, seen=copy)
