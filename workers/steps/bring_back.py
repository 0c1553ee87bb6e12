"""The way back after the commit point: the source runs again as it was when it stopped.

The target is stopped and kept, guarded, with all that it wrote since: nothing is lost, and nothing is merged. Source
and target change their parts, so the order is that of a hand-over: the source loses its guard only after the target
has one.
"""

from dataclasses import replace

from common.domain.errors import (
    IdentityMismatch,
    NotFound,
    PreconditionFailed,
    StopRefused,
    TransferFailed,
    VerificationFailed,
)
from common.domain.instance import GUARD_DEVICE, MARK_PREFIX, Instance
from common.domain.job import Outcome
from common.domain.plan import AfterGrace, identity_of
from workers.steps.context import Context
from workers.steps.cutover import grace_of, rename
from workers.steps.guard import guard, unguarded
from workers.steps.marks import id_of_mark, mark, remembered_id, restored, wanted
from workers.steps.undo import start_again
from workers.steps.volumes import check_retired_volumes, keep_volumes


def stop_target(ctx: Context) -> Outcome:
    """The target is stopped, as a source is for a cutover; the source must still be there to take its place."""
    source, target = _sides(ctx)
    if not _is_back(ctx, source, target):
        _check_retired(ctx, source)
    if target.is_stopped:
        return Outcome.completed()
    grace = grace_of(ctx, target)
    force = bool(ctx.job.evidence.get("forced"))
    ended = ctx.settle(
        "force" if force else "stop",
        lambda: ctx.on_target(
            ctx.target.force_stop(target.name, project=target.project)
            if force
            else ctx.target.stop(
                target.name, project=target.project, grace_seconds=max(1, round(grace.total_seconds()))
            )
        ),
        blocked_on=f"the guest on {ctx.move.target} to shut down, for up to {grace.total_seconds():.0f} s",
        lingers=False,
    )
    if isinstance(ended, Outcome):
        return ended
    if _sides(ctx)[1].is_stopped:
        return Outcome.completed()
    ctx.forget("stop", "force")
    if force:
        raise TransferFailed(
            f"{ctx.move.target}: forced stop of {target.name}: {ended.error if ended else 'forgotten'}"
        )
    if ctx.move.policy.after_grace is AfterGrace.GIVE_BACK:
        raise StopRefused(f"{target.name} did not shut down within {grace.total_seconds():.0f} s")
    return Outcome.again(evidence={"forced": True})


def take_back(ctx: Context) -> Outcome:
    """The target gets the guard, then the source loses its own."""
    source, target = _sides(ctx)
    if _is_back(ctx, source, target):
        return Outcome.completed()
    _check_retired(ctx, source)
    if not _is_kept(ctx, target):
        keep_volumes(ctx)
        # LXD refuses the guard on a running container, so this is also the test whether it is still stopped.
        ctx.patch_target(
            {
                mark("job"): ctx.job.id,
                mark("state"): "retired",
                "boot.autostart": "false",
                **({} if "autostart" in target.marks else wanted(target.own_config)),
                **(remembered_id(target) if ctx.move.is_within_cluster and "instance-id" not in target.marks else {}),
            },
            devices=guard(target.type),
            seen=target,
        )
        return Outcome.again()
    return _give_name_back(ctx, source, target) or _free_source(ctx, source, target)


def _give_name_back(ctx: Context, source: Instance, target: Instance) -> Outcome | None:
    """Within a cluster a name exists once: while both can't start the target gives it up, then the source takes it.

    None when the source has it.
    """
    if source.name == ctx.move.instance:
        return None
    sides = (("rename_copy", target, ctx.job.copy_name), ("rename_source", source, ctx.move.instance))
    for key, instance, name in sides:
        renamed = rename(ctx, key, instance, name)
        if renamed is not None:
            return renamed
    return Outcome.again()


def start_source(ctx: Context) -> Outcome:
    """Start the source if it ran before it was moved."""
    source, target = _sides(ctx)
    if not _is_back(ctx, source, target):
        raise VerificationFailed(f"{ctx.move.source}:{source.name} did not take its place back")
    if source.is_running or not ctx.job.facts.get("was_running"):
        return Outcome.completed()
    return start_again(ctx, source)


def _sides(ctx: Context) -> tuple[Instance, Instance]:
    """Source and target, which are the same machine. Raises IdentityMismatch."""
    by_hand = (
        f"look for it; `lxc config device remove {ctx.move.source}:{ctx.move.instance} {GUARD_DEVICE}` frees the source"
    )
    try:
        source = ctx.source_instance()
    except NotFound as error:
        raise IdentityMismatch(
            f"the source {ctx.move.source}:{ctx.move.instance} is not there any more",
            hint=f"move {ctx.move.target}:{ctx.move.name} back instead",
        ) from error
    target = ctx.target_instance()
    if target is None:
        raise IdentityMismatch(f"{ctx.move.target}:{ctx.move.name} is not there any more", hint=by_hand)
    if identity_of(source) != identity_of(target):
        raise IdentityMismatch(f"{ctx.move.target}:{ctx.move.name} is not the instance that was moved", hint=by_hand)
    return source, target


def _check_retired(ctx: Context, source: Instance) -> None:
    if source.marks.get("job") != ctx.job.id or not source.is_stopped or not source.is_guarded:
        raise IdentityMismatch(
            f"{ctx.move.source}:{source.name} is not the stopped source of this job any more; left alone",
            hint="decide by hand which side shall run",
        )
    check_retired_volumes(ctx)


def _is_kept(ctx: Context, target: Instance) -> bool:
    return target.is_retired and target.is_stopped and target.marks.get("job") == ctx.job.id


def _is_back(ctx: Context, source: Instance, target: Instance) -> bool:
    return _is_kept(ctx, target) and not source.is_guarded


def _free_source(ctx: Context, source: Instance, target: Instance) -> Outcome:
    config = {key: value for key, value in restored(source).items() if not key.startswith(MARK_PREFIX)}
    config |= id_of_mark(target)
    try:
        ended = ctx.settle(
            "release",
            lambda: ctx.on_source(
                ctx.source.replace(
                    replace(source, profiles=source.own_profiles), config=config, devices=unguarded(source)
                )
            ),
            blocked_on=f"the release of the source on {ctx.move.source}",
        )
    except PreconditionFailed as error:
        raise TransferFailed(f"{ctx.move.source}:{source.name} changed meanwhile: {error}") from error
    if isinstance(ended, Outcome):
        return ended
    ctx.forget("release")
    if ended is not None and not ended.succeeded:
        raise TransferFailed(f"{ctx.move.source}: release of {source.name}: {ended.error}")
    return Outcome.again()
