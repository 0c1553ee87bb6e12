"""A drill: a clone of a generation is started where it lies, alone, and shows whether it works; then it is removed.

The clone has a root disk, clones of the volumes beside the generation, and nothing else: no profile, no network card
and no path of its host. So it can meet neither its source nor the world, and is no second copy of a running instance.
Of the generation one key is written, the outcome. Everything that is stopped or removed bears the mark of this drill.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from common.domain.drill import BACKUP_DRILL, DRILLED, Drill, DrillOrder, newest
from common.domain.eligibility import findings
from common.domain.errors import (
    CopyLost,
    IdentityMismatch,
    NotFound,
    PreflightRefused,
    ServerRefused,
    TransferFailed,
    VerificationFailed,
)
from common.domain.fleet import Server
from common.domain.generation import BACKUP_DEFINITION, Generation
from common.domain.instance import BACKUP_STATE, Instance, is_root_disk
from common.domain.job import Outcome
from common.domain.plan import identity_of
from common.lxd.migration import generation_body
from workers.steps.context import Context
from workers.steps.copies import find_operation, remove_copy, settle_clone
from workers.steps.cutover import free_target
from workers.steps.guard import guard
from workers.steps.health import check_health
from workers.steps.marks import mark
from workers.steps.volumes import discard_volumes, is_complete, send_each

#: What of its source's config the clone needs to run as that did, and that reaches nothing outside of it.
_TAKEN = ("security.nesting", "security.privileged", "security.secureboot", "security.csm", "limits.memory")
#: How long a clone without a command must have gone on running.
_STEADY = timedelta(seconds=5)
#: After which a start that was refused is tried again.
_AGAIN = timedelta(seconds=2)
#: How often a clone that stopped is started again: its server may have been restarted.
_MAX_STOPS = 2


def check_generation(ctx: Context) -> Outcome:
    """The generation is there, complete, and the one that was planned."""
    generation = _generation(ctx)
    if identity_of(generation) != ctx.move.identity:
        raise IdentityMismatch(f"{_what(ctx)} is not the generation that was planned", hint=_DRILL_AGAIN)
    server = Server(remote=ctx.move.target, info=ctx.target.info())
    refused = [each for each in findings(generation, ctx.move, server, server) if each.is_refusal]
    if refused:
        raise PreflightRefused(
            f"{_what(ctx)}: " + "; ".join(each.message for each in refused),
            hint="; ".join(each.hint for each in refused),
        )
    return Outcome.completed()


_DRILL_AGAIN = "`herder backup drill` takes the newest generation"


def _generation(ctx: Context) -> Instance:
    """Raises PreflightRefused."""
    try:
        return ctx.source_instance()
    except NotFound as gone:
        message = f"{_what(ctx)} is not there any more: it was pruned, or somebody has removed it"
        raise PreflightRefused(message, hint=_DRILL_AGAIN) from gone


def clone_volumes(ctx: Context) -> Outcome:
    """Beside the clone there is one of each volume beside the generation; nothing is written into those."""
    meant = {f"{ctx.move.source}:{volume}" for volume in ctx.move.volumes}
    return send_each(ctx, lambda copy: is_complete(copy) and copy.marks.get("source") in meant)


def clone_generation(ctx: Context) -> Outcome:
    """The clone is there, guarded. One of which nobody saw the end is made again."""
    if "clone" not in ctx.job.evidence:
        found = ctx.target_instance()
        if found is not None:
            return _remove(ctx, found) or Outcome.again()
        body = _body(ctx, _generation(ctx))
    else:
        body = {}
    waiting = settle_clone(
        ctx,
        lambda: ctx.on_target(ctx.target.receive(body, project=ctx.move.target_project)),
        blocked_on=f"the clone {_where(ctx)}",
        failed=lambda error: TransferFailed(f"{_where(ctx)} cannot be made: {error}"),
    )
    if waiting is not None:
        return waiting
    return Outcome.completed(drill_since="", running_after=None, drill_stops=0, health_since=None, was_running=True)


def _body(ctx: Context, generation: Instance) -> dict[str, object]:
    return generation_body(
        ctx.move.name,
        of=generation,
        config={**_config(ctx, generation), "security.protection.delete": "false"},
        devices={**_root(generation), **guard(ctx.move.type)},
    )


def _config(ctx: Context, generation: Instance) -> dict[str, str]:
    definition = json.loads(generation.config[BACKUP_DEFINITION])
    configs = [*(profile["config"] for profile in definition["profiles"]), definition["config"]]
    was = {key: value for config in configs for key, value in config.items()}
    return {
        **{key: was[key] for key in _TAKEN if key in was},
        "boot.autostart": "false",
        BACKUP_STATE: DRILLED,
        mark("job"): ctx.job.id,
        mark("role"): "drill",
        mark("source"): _what(ctx),
    }


def _root(instance: Instance) -> dict[str, dict[str, str]]:
    return {name: dict(device) for name, device in instance.devices.items() if is_root_disk(device)}


def start_clone(ctx: Context) -> Outcome:
    """The clone has nothing but its disks, and runs. Raises VerificationFailed when its time is up."""
    clone = _own_clone(ctx)
    if clone.is_guarded:
        freed = _free(ctx, clone)
        if freed is not None:
            return freed
    return _start(ctx, clone) or Outcome.completed()


def _free(ctx: Context, clone: Instance) -> Outcome | None:
    """None when it is free to start, and all that it has is what is said here."""
    volatile = {key: value for key, value in clone.config.items() if key.startswith("volatile.")}
    bare = replace(clone, profiles=(), config={**volatile, **_config(ctx, _generation(ctx))})
    return free_target(ctx, bare, "drilled", devices={**_root(clone), **_volumes(ctx)})


def _volumes(ctx: Context) -> dict[str, dict[str, str]]:
    """The devices of the source that attached what is cloned here."""
    definition = json.loads(_generation(ctx).config[BACKUP_DEFINITION])
    was = {(each["kept_in"], each["kept_as"]): (each["pool"], each["name"]) for each in definition.get("volumes", ())}
    clones = {was[volume.pool, volume.name]: volume for volume in ctx.move.volumes}
    return {
        name: {**device, "pool": clone.target_pool, "source": clone.target_name}
        for name, device in definition["expanded_devices"].items()
        if (clone := clones.get((device.get("pool"), device.get("source")))) is not None
    }


def _start(ctx: Context, clone: Instance) -> Outcome | None:
    """None when it runs. Raises VerificationFailed."""
    if "start" not in ctx.job.evidence:
        if clone.is_running:
            _note_running(ctx)
            return None
        if not ctx.job.facts.get("drill_since"):
            ctx.note(drill_since=ctx.now().isoformat())
    try:
        ended = ctx.settle(
            "start",
            lambda: ctx.on_target(ctx.target.start(clone.name, project=clone.project)),
            blocked_on=f"the start of {_where(ctx)}",
        )
    except ServerRefused as refused:
        return _not_started(ctx, refused.message)
    if isinstance(ended, Outcome):
        return ended
    ctx.forget("start")
    if _own_clone(ctx).is_running:
        _note_running(ctx)
        return None
    return _not_started(ctx, ended.error if ended else "its server has forgotten it")


def _note_running(ctx: Context) -> None:
    if ctx.job.facts.get("running_after") is None and ctx.job.facts.get("drill_since"):
        took = ctx.now() - datetime.fromisoformat(ctx.job.facts["drill_since"])
        ctx.note(running_after=round(took.total_seconds(), 2))


def _not_started(ctx: Context, error: str) -> Outcome:
    if ctx.now() - datetime.fromisoformat(ctx.job.facts["drill_since"]) > _order(ctx).timeout:
        raise _failed(ctx, f"it does not start: {error}")
    return Outcome.wait(f"{_where(ctx)} to start ({error})", retry_in=_AGAIN, evidence=dict(ctx.job.evidence))


def prove_clone(ctx: Context) -> Outcome:
    """The command has succeeded inside the clone; without one, it has gone on running for a while."""
    clone = _own_clone(ctx)
    if not clone.is_running:
        return _start_again(ctx, clone)
    try:
        sick = check_health(ctx)
    except VerificationFailed as failed:
        raise _failed(ctx, failed.message) from failed
    if sick is not None or ctx.move.policy.health is not None:
        return sick or Outcome.completed()
    since = ctx.job.evidence.get("steady_since")
    if since is None:
        since = ctx.now().isoformat()
        ctx.note(evidence={"steady_since": since})
    left = datetime.fromisoformat(since) + _STEADY - ctx.now()
    if left > timedelta(0):
        return Outcome.wait(f"{_where(ctx)} to go on running", retry_in=left, evidence=dict(ctx.job.evidence))
    return Outcome.completed()


def _start_again(ctx: Context, clone: Instance) -> Outcome:
    """Its server may have been restarted; what stops by itself again and again does not work."""
    stops = int(ctx.job.facts.get("drill_stops", 0))
    if "start" not in ctx.job.evidence:
        if stops == _MAX_STOPS:
            raise _failed(ctx, f"it stopped {stops + 1} times")
        ctx.note(drill_stops=stops + 1)
    ctx.forget("health", "steady_since")
    return _start(ctx, clone) or Outcome.again(evidence=ctx.job.evidence)


def record_drill(ctx: Context) -> Outcome:
    """The commit point: the generation tells that it has been proven, how fast, and for which run."""
    _record(ctx, succeeded=True)
    return Outcome.completed()


def _record(ctx: Context, *, succeeded: bool, reason: str = "") -> None:
    _generation(ctx)
    drill = Drill(
        at=_order(ctx).at,
        generation=ctx.move.instance,
        succeeded=succeeded,
        running_after=ctx.job.facts.get("running_after"),
        reason=reason,
    )
    ctx.patch_source({BACKUP_DRILL: drill.to_text()})


def _failed(ctx: Context, reason: str) -> VerificationFailed:
    """The error of a clone that does not work, which is on the generation by then."""
    _record(ctx, succeeded=False, reason=reason)
    return VerificationFailed(
        f"{_what(ctx)}, the backup of {ctx.move.origin}, has failed its drill: {reason}",
        hint=f"the backup is as it was: `herder backup restore {_what(ctx)} --as NAME` makes an instance to look "
        f"into; `herder retry {ctx.job.id}` drills it again",
    )


def drop_clone(ctx: Context) -> Outcome:
    """Nothing is left of the clone; what is not this drill's is left alone."""
    found = ctx.target_instance()
    waiting = _remove(ctx, found) if found is not None and _is_ours(ctx, found) else None
    return waiting or discard_volumes(ctx)


def _remove(ctx: Context, clone: Instance) -> Outcome | None:
    """None when it is gone. Raises IdentityMismatch for anything but a clone of this drill."""
    if not _is_ours(ctx, clone):
        raise IdentityMismatch(f"{_where(ctx)} is no clone of this drill; left alone", hint="rename or delete it")
    running = find_operation(ctx.target.operations(project=clone.project), clone.name)
    if running is not None and not ctx.job.evidence.keys() & {"stop", "remove", "rename"}:
        blocked_on = f"the end of '{running.description}' on {ctx.move.target}"
        return ctx.wait_for(ctx.on_target(running.id), blocked_on=blocked_on)
    if clone.marks["job"] != ctx.job.id:
        # Redis was lost with the job that made it, and the plan that followed numbers its jobs in another way.
        ctx.patch_target({mark("job"): ctx.job.id}, seen=clone)
        return Outcome.again(evidence=ctx.job.evidence)
    return _stop(ctx, clone) or remove_copy(ctx, clone)


def _stop(ctx: Context, clone: Instance) -> Outcome | None:
    """None when it is stopped; nobody needs what it would save."""
    if clone.is_stopped and "stop" not in ctx.job.evidence:
        return None
    ended = ctx.settle(
        "stop",
        lambda: ctx.on_target(ctx.target.force_stop(clone.name, project=clone.project)),
        blocked_on=f"the stop of {_where(ctx)}",
    )
    if isinstance(ended, Outcome):
        return ended
    ctx.forget("stop")
    now = ctx.target_instance()
    if now is not None and not now.is_stopped:
        raise TransferFailed(f"{_where(ctx)} does not stop: {ended.error if ended else 'its server has forgotten it'}")
    return Outcome.again(evidence=ctx.job.evidence)


def keep_outcome(ctx: Context, own: Mapping[datetime, Generation], removed: Collection[datetime]) -> None:
    """Before generations are pruned: what the last drill came to goes on to the newest one, should it go with them.

    ``own`` are those of one policy and instance, by their moments.
    """
    last = newest(each.drill for each in own.values())
    if last is None or last == newest(each.drill for at, each in own.items() if at not in removed):
        return
    heir = own[max(own)]
    ctx.patch_target({BACKUP_DRILL: last.to_text()}, look=lambda: ctx.target.instance(heir.name, project=heir.project))


def _own_clone(ctx: Context) -> Instance:
    """Raises CopyLost: another one is made."""
    found = ctx.target_instance()
    if found is None or found.marks.get("job") != ctx.job.id or not _is_ours(ctx, found):
        raise CopyLost(f"{_where(ctx)} is not there any more, or is not ours")
    return found


def _is_ours(ctx: Context, found: Instance) -> bool:
    of_plan = found.marks.get("job", "").rpartition("-")[0] == ctx.job.plan
    return of_plan and found.config.get(BACKUP_STATE) == DRILLED


def _order(ctx: Context) -> DrillOrder:
    assert ctx.move.drill  # noqa: S101 - every move of Method.DRILL has one
    return ctx.move.drill


def _what(ctx: Context) -> str:
    return f"{ctx.move.source}:{ctx.move.instance}"


def _where(ctx: Context) -> str:
    return f"{ctx.move.target}:{ctx.move.name}"
