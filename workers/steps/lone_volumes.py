"""Custom volumes that go by themselves: moved, copied, or made equal to their source. ``volumes`` sends them.

A copy is made under its own name, and bears the marks of its job until it counts. Nothing is ever refreshed in place:
LXD sends all of a btrfs volume in any case, its rsync could leave a change out, and both write into what is there. The
new copy is made beside that, and when it has been verified the two change places.

A server has no guard for a volume that nobody attaches. So a moved one is looked at before it is sent, when its copy is
verified, and before it is retired: it must be attached by nobody.
"""

from common.domain.eligibility import volume_findings
from common.domain.errors import (
    CopyLost,
    IdentityMismatch,
    PreflightRefused,
    TransferFailed,
    VerificationFailed,
)
from common.domain.instance import KEPT
from common.domain.job import Outcome
from common.domain.plan import Retire
from common.domain.volume import COPIED_BY, AttachedVolume, Volume
from common.lxd.survey import survey_volumes
from workers.steps.carried_volumes import drop_leftovers
from workers.steps.context import Context
from workers.steps.marks import mark
from workers.steps.volume_steps import discard_sent_volumes, send_volumes
from workers.steps.volumes import (
    claimed,
    delete,
    differing_volumes,
    find_volume,
    is_complete,
    own_copy,
    patch,
    rename,
    unmarked,
    wait_for_earlier,
    wait_for_source,
)


def is_accepted(ctx: Context) -> bool:
    """Whether what has the volume's name on the target is this job's, and counts."""
    there = _there(ctx)
    return there is not None and there.config.get(COPIED_BY) == ctx.job.id


def check_volume(ctx: Context) -> Outcome:
    """It can go; then a moved one is marked as ours."""
    volume = _volume(ctx)
    source, target = (
        survey_volumes(client, project=project)
        for client, project in ((ctx.source, ctx.move.project), (ctx.target, ctx.move.target_project))
    )
    refused = [each for each in volume_findings(ctx.move, source, target, own_job=ctx.job.id) if each.is_refusal]
    if refused and _kept(ctx) is None:
        raise PreflightRefused(
            f"{volume}: " + "; ".join(finding.message for finding in refused),
            hint="; ".join(finding.hint for finding in refused),
        )
    seen = claimed(ctx, volume)
    return Outcome.completed(volume_snapshots=sorted(ctx.source.volume_snapshots(seen)))


def send_volume(ctx: Context) -> Outcome:
    """All of it, with its snapshots; what is complete is not sent again."""
    first = int(ctx.job.facts.get("whole_from", 0))
    return send_volumes(ctx, lambda copy: is_complete(copy) and int(copy.marks["pass"]) >= first)


def verify_volume(ctx: Context) -> Outcome:
    """The copy has what its source has, and nobody has attached a moved one meanwhile."""
    _complete_copy(ctx)
    remaining = drop_leftovers(ctx)
    if remaining is not None:
        return remaining
    wrong = differing_volumes(ctx)
    if wrong:
        raise VerificationFailed(
            f"{ctx.move.target}: {'; '.join(wrong)}", hint=f"`herder retry {ctx.job.id}` sends it once more"
        )
    if not ctx.move.is_copy:
        claimed(ctx, _volume(ctx))
    return Outcome.completed()


def accept_volume(ctx: Context) -> Outcome:
    """The commit point: from here on the copy counts."""
    patch(ctx, ctx.target, _complete_copy(ctx), lambda _: {COPIED_BY: ctx.job.id})
    return Outcome.completed()


def swap_volume(ctx: Context) -> Outcome:
    """The commit point of a refresh: the new copy takes the name of what was there, which is kept under another one."""
    there = _there(ctx)
    if there is None:
        copy = _complete_copy(ctx)
        patch(ctx, ctx.target, copy, lambda _: {COPIED_BY: ctx.job.id})
        ctx.confirm_fence()
        rename(ctx, copy, _volume(ctx).target_name)
        return Outcome.again()
    _complete_copy(ctx)
    users = there.other_users(project=ctx.move.target_project)
    if users:
        raise PreflightRefused(
            f"{ctx.move.target}: volume {there.place} is attached by {', '.join(users)} now",
            hint=f"detach it there, then `herder retry {ctx.job.id}`",
        )
    _refuse_two(ctx)

    def take_back() -> None:
        kept = _kept(ctx)
        if kept is not None and _there(ctx) is None:
            ctx.target.rename_volume(kept, there.name)

    with ctx.taken_back_if_late(take_back):
        rename(ctx, there, ctx.job.name_beside(KEPT))
    return Outcome.again()


def drop_kept_volume(ctx: Context) -> Outcome:
    """What the refreshed volume was goes."""
    kept = _kept(ctx)
    if kept is None:
        return Outcome.completed()
    if not is_accepted(ctx):
        raise IdentityMismatch(
            f"{_where(ctx)} is not the volume any more that this job has made; what it was stays, {kept.place}",
            hint=f"rename or delete {kept.place} on {ctx.move.target} as you need it, then `herder retry {ctx.job.id}`",
        )
    _delete_unused(ctx, kept)
    return Outcome.completed()


def retire_volume(ctx: Context) -> Outcome:
    """Keep the source, marked as retired, or delete it if the plan says so; a copy that counts is the proof."""
    volume = _volume(ctx)
    source = find_volume(ctx.source, volume.pool, volume.name, ctx.move.project)
    if source is None:
        return Outcome.completed()
    if source.marks.get("job") != ctx.job.id:
        raise IdentityMismatch(
            f"{ctx.move.source}: volume {volume} is not the moved one of this job any more; left alone",
            hint=f"{_where(ctx)} is verified; look at the source by hand",
        )
    if not is_accepted(ctx):
        raise TransferFailed(f"{_where(ctx)} is not there any more; the source is kept")
    users = source.other_users(project=ctx.move.project)
    if users:
        raise IdentityMismatch(
            f"{ctx.move.source}: volume {volume} was attached by {', '.join(users)} while it moved; left alone",
            hint=f"what they write is not on {ctx.move.target}: detach it there, see to that, and then "
            f"`herder retry {ctx.job.id}`",
        )
    if ctx.move.policy.retire is Retire.DELETE:
        waiting = wait_for_source(ctx, volume)  # a try that broke may not be over there
        if waiting is not None:
            return waiting
        _delete_unused(ctx, source, of_source=True)
    else:
        patch(ctx, ctx.source, source, lambda _: {mark("state"): "retired", mark("memo"): ""})
    return Outcome.completed()


def settle_volume(ctx: Context) -> Outcome:
    """The copy is its owner's."""
    there = _there(ctx)
    if there is not None and there.marks.get("job") == ctx.job.id:
        patch(ctx, ctx.target, there, unmarked)
    return Outcome.completed()


def discard_volume(ctx: Context) -> Outcome:
    """What was there before is there again, and nothing of this job. A transfer cannot be cancelled: it is waited for.

    One whose copy counts only goes forward.
    """
    if is_accepted(ctx):
        return Outcome.goes_forward()
    volume = _volume(ctx)
    waiting = wait_for_earlier(ctx, volume)
    if waiting is not None:
        return waiting
    kept = _kept(ctx)
    if kept is not None:
        if _there(ctx) is not None:
            _refuse_two(ctx)
        ctx.confirm_fence()
        rename(ctx, kept, volume.target_name)
        return Outcome.again()
    return discard_sent_volumes(ctx)


def release_volume(ctx: Context) -> Outcome:
    """Nothing on the source shows that we were there."""
    volume = _volume(ctx)
    source = find_volume(ctx.source, volume.pool, volume.name, ctx.move.project)
    if source is not None and source.marks.get("job") == ctx.job.id:
        patch(ctx, ctx.source, source, unmarked)
    return Outcome.completed()


def _volume(ctx: Context) -> AttachedVolume:
    (volume,) = ctx.move.volumes
    return volume


def _where(ctx: Context) -> str:
    return f"{ctx.move.target}:{ctx.move.name}"


def _there(ctx: Context) -> Volume | None:
    """What has the volume's name on the target, whoever has made it."""
    volume = _volume(ctx)
    return find_volume(ctx.target, volume.target_pool, volume.target_name, ctx.move.target_project)


def _kept(ctx: Context) -> Volume | None:
    """What was there before a refresh, while it has another name."""
    pool = _volume(ctx).target_pool
    return find_volume(ctx.target, pool, ctx.job.name_beside(KEPT), ctx.move.target_project)


def _complete_copy(ctx: Context) -> Volume:
    """Raises CopyLost."""
    copy = own_copy(ctx, _volume(ctx))
    if copy is None or not is_complete(copy):
        raise CopyLost(f"the copy of volume {_volume(ctx)} on {ctx.move.target} is not there any more, or not complete")
    return copy


def _refuse_two(ctx: Context) -> None:
    """Raises IdentityMismatch if somebody has made a volume in the place of the one that is kept."""
    kept = _kept(ctx)
    if kept is not None:
        raise IdentityMismatch(
            f"{_where(ctx)} was made while what it was is kept as {kept.place}",
            hint=f"rename or delete one of them on {ctx.move.target}, then `herder retry {ctx.job.id}`",
        )


def _delete_unused(ctx: Context, volume: Volume, *, of_source: bool = False) -> None:
    """Raises IdentityMismatch if somebody attaches it."""
    client = ctx.source if of_source else ctx.target
    if not delete(ctx, client, volume):
        raise IdentityMismatch(
            f"{client.remote}: volume {volume.place} is attached by somebody now; it is kept",
            hint=f"detach it there, then `herder retry {ctx.job.id}`",
        )
