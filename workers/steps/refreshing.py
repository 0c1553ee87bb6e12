"""A copy that is there is made equal to its source; what it was is kept beside it until the new one is verified.

LXD deletes the snapshots of a copy that its source lacks, writes into its volume on dir, and on btrfs can lose it. So
no snapshot of the copy is a way back: a clone on the same server is, with the copy's config, guarded as the copy is.
``copying`` makes the pass, ``independence`` verifies and frees the copy, and ``undo`` puts back what was kept.
"""

from common.domain.errors import IdentityMismatch, NotFound, PreconditionFailed, TransferFailed
from common.domain.instance import COPY_OF, PUT_BACK, REFRESHED, Instance
from common.domain.job import Kind, Outcome
from common.domain.plan import identity_of
from common.lxd.migration import clone_body
from workers.steps.context import Context
from workers.steps.copies import find_operation, is_whole, kept_copy, remove_copy
from workers.steps.copying import RefreshImpossible, run_pass
from workers.steps.cutover import free_target
from workers.steps.guard import guard, is_released, unguarded
from workers.steps.independence import keep_from_release
from workers.steps.marks import LEAVING, mark, remembered_id, unmarked, wanted


def claim_copy(ctx: Context) -> Outcome:
    """The copy is this job's and cannot be started any more. Raises IdentityMismatch."""
    copy = ctx.target_instance()
    if copy is None and is_whole(kept_copy(ctx)):
        return Outcome.completed()
    if copy is None:
        raise IdentityMismatch(
            f"{_where(ctx)} is not there any more", hint="plan again: `herder copy` makes another one"
        )
    holder = copy.marks.get("job")
    if holder == ctx.job.id and copy.is_guarded and copy.marks.get("role") == "target":
        return Outcome.completed()
    if holder not in (None, ctx.job.id):
        raise IdentityMismatch(f"{_where(ctx)} belongs to job {holder} now")
    if not copy.is_stopped or copy.config.get(COPY_OF) != identity_of(ctx.source_instance()):
        raise IdentityMismatch(
            f"{_where(ctx)} is not the stopped copy of {ctx.move.source_place}:{ctx.move.instance} that was planned",
            hint=f"stop it and look at its {COPY_OF}, then `herder retry {ctx.job.id}`",
        )
    _claim(ctx, copy)
    return Outcome.completed()


def _claim(ctx: Context, copy: Instance) -> None:
    """Raises TransferFailed if somebody changed it meanwhile: the next attempt looks again."""
    config = {
        mark("job"): ctx.job.id,
        mark("role"): "target",
        mark("state"): "claimed",
        mark("pass"): "0",
        mark("source"): f"{ctx.move.source}:{ctx.move.instance}",
        mark(REFRESHED): "true",
        mark("memo"): ctx.memo(ctx.job),
        "boot.autostart": "false",
        **({} if copy.marks.get("role") == "kept" else {**wanted(copy.config), **remembered_id(copy)}),
    }
    if copy.expanded_config.get("security.protection.delete") == "true":
        config["security.protection.delete"] = "false"
    try:
        with ctx.taken_back_if_late(lambda: _let_go(ctx, copy)):
            ctx.target.patch(copy.name, project=copy.project, seen=copy, config=config, devices=guard(ctx.move.type))
    except PreconditionFailed as error:
        raise TransferFailed(f"{_where(ctx)} changed meanwhile: {error}") from error


def _let_go(ctx: Context, was: Instance) -> None:
    now = ctx.own_copy()
    if now is not None and now.marks.get("state") == "claimed":
        ctx.target.replace(now, config=was.config, devices=was.devices)


def keep_copy(ctx: Context) -> Outcome:
    """A whole clone of the copy is beside it, before anything is written into the copy."""
    kept = kept_copy(ctx)
    if is_whole(kept):
        return Outcome.completed()
    if "keep" not in ctx.job.evidence:
        if kept is not None:
            return _remove_kept(ctx, kept) or Outcome.again()
        claim_copy(ctx)  # a cancel let go of it, and Redis has lost that
        copy = _claimed(ctx)
        ctx.confirm_fence()
    else:
        copy = None
    ended = ctx.settle(
        "keep",
        lambda: ctx.on_target(ctx.target.receive(_body_of_kept(ctx, copy), project=ctx.move.target_project)),
        blocked_on=f"what {_where(ctx)} is to be kept",
    )
    if isinstance(ended, Outcome):
        return ended
    ctx.forget("keep")
    if ended is None:
        return Outcome.again(evidence=ctx.job.evidence)  # unknown whether it is whole: it is made again
    kept = kept_copy(ctx)
    if not ended.succeeded or kept is None:
        raise TransferFailed(f"{ctx.move.target}: what {ctx.move.name} is cannot be kept: {ended.error}")
    ctx.confirm_fence()
    ctx.target.patch(kept.name, project=kept.project, seen=kept, config={mark("state"): "complete"})
    return Outcome.completed()


def _claimed(ctx: Context) -> Instance:
    """The copy, into which nothing has been written yet. Raises IdentityMismatch."""
    copy = ctx.own_copy()
    if copy is None or not copy.is_guarded or not copy.is_stopped or copy.marks.get("state") != "claimed":
        raise IdentityMismatch(f"{_where(ctx)} is not the claimed copy of this job any more", hint="look at it by hand")
    return copy


def _body_of_kept(ctx: Context, copy: Instance | None) -> dict[str, object]:
    copy = copy or _claimed(ctx)
    own = {key: value for key, value in copy.config.items() if not key.startswith("volatile.")}
    marks = {mark("role"): "kept", mark("state"): "receiving"}
    return clone_body(copy, name=ctx.job.kept_name, config={**own, **copy.identity, **marks})


def refresh_copy(ctx: Context) -> Outcome:
    """One pass of what has changed; a copy that LXD cannot refresh is made anew, as the instance that it was."""
    kept = kept_copy(ctx)
    if kept is None or not is_whole(kept):
        return _keep_again(ctx)
    is_anew = bool(ctx.job.facts.get("no_refresh")) or PUT_BACK in kept.config
    if is_anew and "whole_from" not in ctx.job.facts:
        ctx.note(whole_from=ctx.job.facts.get("next_pass", 0))
    try:
        passed = run_pass(ctx, "full" if is_anew else "refresh")
    except RefreshImpossible as error:
        ctx.note(no_refresh=error.message, whole_from=ctx.job.facts["next_pass"])
        return Outcome.again()
    return passed if isinstance(passed, Outcome) else Outcome.completed(finished_pass=passed)


def _keep_again(ctx: Context) -> Outcome:
    """The copy is claimed and kept once more, after a cancel that let go of it and that Redis has lost."""
    copy = ctx.own_copy()
    if copy is not None and _is_written(copy):
        raise IdentityMismatch(
            f"{ctx.move.target} has no {ctx.job.kept_name} any more, without which {_where(ctx)} is not touched",
            hint=f"`herder cancel {ctx.job.id}` lets go of the copy",
        )
    keeping = keep_copy(ctx)
    return Outcome.again() if keeping.kind is Kind.COMPLETED else keeping


def drop_kept(ctx: Context) -> Outcome:
    """The refreshed copy is verified and free: what it was goes. Raises IdentityMismatch if the copy is gone."""
    kept = kept_copy(ctx)
    if kept is None:
        return Outcome.completed()
    waiting = _wait_for_others(ctx)
    if waiting is not None:
        return waiting
    if not is_released(ctx, ctx.target_instance()):
        raise IdentityMismatch(
            f"{_where(ctx)} is not the copy any more that this job has refreshed; what it was stays, {kept.name}",
            hint=f"rename or delete {ctx.move.target}:{kept.name} as you need it, then `herder retry {ctx.job.id}`",
        )
    return _remove_kept(ctx, kept) or Outcome.completed()


def put_back(ctx: Context) -> Outcome | None:
    """The copy is what it was before, and nobody's; None if it was released, from where the job goes forward."""
    copy = ctx.own_copy()
    if copy is not None and _is_written(copy) and copy.is_guarded:
        keep_from_release(ctx, copy)
    waiting = _wait_for_others(ctx)
    if waiting is not None:
        return waiting
    if is_released(ctx, ctx.target_instance()):
        return None
    return _put_back(ctx, ctx.own_copy(), kept_copy(ctx))


def _put_back(ctx: Context, copy: Instance | None, kept: Instance | None) -> Outcome:
    """At every moment the copy or what was kept is there, as it was before; nothing is under way with either."""
    if copy is not None and _is_written(copy):
        if not is_whole(kept):
            raise IdentityMismatch(
                f"{_where(ctx)} was being refreshed, and {ctx.job.kept_name} is not there any more; left alone",
                hint="look at both servers by hand; the source is as it was",
            )
        ctx.forget("release")
        return remove_copy(ctx, copy) or Outcome.again()
    if copy is None:
        return _rename_kept(ctx) if is_whole(kept) else Outcome.completed()
    if kept is not None:
        return _remove_kept(ctx, kept) or Outcome.again()
    if copy.is_guarded:
        told = {PUT_BACK: "true"} if copy.marks.get("role") == "kept" else {}
        freed = free_target(ctx, copy, "put-back", devices=unguarded(copy), told=told)
        if freed is not None:
            return freed
    ctx.patch_target(unmarked(copy))
    return Outcome.completed()


def _is_written(copy: Instance) -> bool:
    """Whether a pass may have written into it."""
    return copy.marks.get("role") == "target" and copy.marks.get("state") in ("receiving", "complete", LEAVING)


def _wait_for_others(ctx: Context) -> Outcome | None:
    """Until nothing is under way with the copy, or with what is kept, but our own removal."""
    if ctx.job.evidence.keys() & {"remove", "rename"}:
        return None
    operations = ctx.target.operations(project=ctx.move.target_project)
    for name in (ctx.job.copy_name, ctx.job.kept_name):
        running = find_operation(operations, name)
        if running is not None:
            return ctx.wait_for(
                ctx.on_target(running.id), blocked_on=f"the end of '{running.description}' on {ctx.move.target}"
            )
    return None


def _rename_kept(ctx: Context) -> Outcome:
    ended = ctx.settle(
        "put-back",
        lambda: ctx.on_target(ctx.target.rename(ctx.job.kept_name, ctx.job.copy_name, project=ctx.move.target_project)),
        blocked_on=f"what {_where(ctx)} was to be put back",
    )
    if isinstance(ended, Outcome):
        return ended
    ctx.forget("put-back")
    if ended is not None and not ended.succeeded:
        raise TransferFailed(f"{ctx.move.target}: {ctx.job.kept_name} cannot be put back: {ended.error}")
    return Outcome.again()


def _remove_kept(ctx: Context, kept: Instance) -> Outcome | None:
    try:
        return _wait_for_others(ctx) or remove_copy(ctx, kept, lambda: kept_copy(ctx))
    except NotFound:
        return None


def _where(ctx: Context) -> str:
    return f"{ctx.move.target_place}:{ctx.move.name}"
