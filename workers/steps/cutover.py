"""Cutover: stop the source, hand over, start and verify the target. The instance is down in here.

``hand_over`` is the commit point. The source is guarded before it stops, the copy from its first moment; until the
commit point only the source's guard may be taken off, from then on only the copy's. Both are on the servers, so that
no late request can start the wrong side.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType

import tenacity

from common.domain.eligibility import wanted_profiles
from common.domain.errors import (
    CutoverBroken,
    IdentityMismatch,
    NotFound,
    PermanentError,
    PreconditionFailed,
    StopRefused,
    TransferFailed,
    VerificationFailed,
)
from common.domain.instance import Devices, Instance
from common.domain.job import Outcome
from common.domain.plan import AfterGrace, Method, identity_of
from workers.steps.context import Context
from workers.steps.copying import mark_receiving
from workers.steps.guard import LAST_USED, guard_source, seal_guard, was_handed_over
from workers.steps.health import check_health
from workers.steps.marks import is_own_snapshot, mark, restored
from workers.steps.volumes import check_volumes, differing_volumes

_DEFAULT_GRACE = timedelta(seconds=30)  # LXD's own boot.host_shutdown_timeout
#: Looks after which they do not become any rarer.
_RARELY = 10
_TRANSIENT_KEYS = ("volatile.", "user.herder.")


def stop_source(ctx: Context) -> Outcome:
    """Guard the source, then stop it within its grace; downtime begins.

    Done as soon as its processes are gone: LXD cleans up after them for another half second, which nothing waits for,
    because the guard keeps everybody from starting it.
    """
    is_first_look = "down_at" not in ctx.job.facts
    instance = ctx.source_instance()
    if is_first_look and instance.is_guarded and ctx.job.facts.get("was_running"):
        # Redis has lost the note, but nobody else guards: so we have stopped it.
        ctx.note(down_at=ctx.now().isoformat())
        is_first_look = False
    instance = _prepared(ctx, instance)
    if instance.is_stopped:
        # Somebody else stopped it since preflight: it shall stay stopped on the target too.
        was_running = ctx.job.facts["was_running"] and not (is_first_look and ctx.move.method is Method.WARM)
        return Outcome.completed(last_used=instance.last_used_at.isoformat(), was_running=was_running)
    if is_first_look:
        ctx.note(down_at=ctx.now().isoformat())
    if ctx.job.evidence.get("forced"):
        return _look_soon(ctx, _force(ctx))
    return _stop(ctx, instance)


def _prepared(ctx: Context, instance: Instance) -> Instance:
    """The source, guarded. What else can be done before the downtime is done now."""
    if not instance.is_guarded:
        guard_source(ctx)
        instance = ctx.source_instance()
    if "down_at" not in ctx.job.facts and ctx.move.method is Method.WARM:
        mark_receiving(ctx, ctx.own_copy(), int(ctx.job.facts["next_pass"]))
    return instance


def _stop(ctx: Context, instance: Instance) -> Outcome:
    if ctx.move.method is Method.STATEFUL:
        return _stop_with_memory(ctx, instance)
    grace = grace_of(ctx, instance)
    ended = ctx.settle(
        "stop",
        lambda: ctx.on_source(
            ctx.source.stop(instance.name, project=instance.project, grace_seconds=max(1, round(grace.total_seconds())))
        ),
        blocked_on=f"the guest to shut down, for up to {grace.total_seconds():.0f} s",
        lingers=False,
    )
    if isinstance(ended, Outcome):
        return _look_soon(ctx, ended)
    if ctx.source_instance().is_stopped:
        return Outcome.again(evidence=ctx.job.evidence)
    ctx.forget("stop")
    if ended is None:
        raise TransferFailed(f"{ctx.move.source} forgot the stop of {instance.name}, which still runs")
    if ctx.move.policy.after_grace is AfterGrace.GIVE_BACK:
        raise StopRefused(f"{instance.name} did not shut down within {grace.total_seconds():.0f} s")
    ctx.note(evidence={"forced": True})
    return _look_soon(ctx, _force(ctx))


def _stop_with_memory(ctx: Context, instance: Instance) -> Outcome:
    """No grace, because the guest is not asked, and no force, which would lose the memory."""
    ended = ctx.settle(
        "stop",
        lambda: ctx.on_source(ctx.source.stop_with_memory(instance.name, project=instance.project)),
        blocked_on=f"{ctx.move.source} to write the memory of {instance.name} to its disk",
        lingers=False,
    )
    if isinstance(ended, Outcome):
        return ended
    ctx.forget("stop")
    if ctx.source_instance().is_stopped:
        return Outcome.again(evidence=ctx.job.evidence)
    if ended is None:
        raise TransferFailed(f"{ctx.move.source} forgot the stop of {instance.name}, which still runs")
    raise StopRefused(
        f"{ctx.move.source}: the memory of {instance.name} was not saved, and it runs on: {ended.error}",
        hint="mend that, then `herder retry`; or plan again with `--method cold`",
    )


def _look_soon(ctx: Context, waiting: Outcome) -> Outcome:
    """Look every few milliseconds, then less and less often: it is stopped long before the operation ends."""
    if "looks" not in waiting.evidence:
        ctx.note(evidence=waiting.evidence)
        if _stops_at_once(ctx):
            return Outcome.again(evidence=waiting.evidence)
    looks = int(waiting.evidence.get("looks", 0))
    soon = min(timedelta(milliseconds=50) * 2**looks, waiting.retry_in)
    return replace(waiting, retry_in=soon, evidence={**waiting.evidence, "looks": min(looks + 1, _RARELY)})


def _stops_at_once(ctx: Context) -> bool:
    looking = tenacity.Retrying(
        retry=tenacity.retry_if_result(lambda source: not source.is_stopped),
        wait=tenacity.wait_fixed(0.01),
        stop=tenacity.stop_after_delay(0.3),
        retry_error_callback=lambda last: last.outcome.result() if last.outcome else None,
    )
    source: Instance = looking(ctx.source_instance)
    return source.is_stopped


def grace_of(ctx: Context, instance: Instance) -> timedelta:
    """How long the guest may take to shut down: as the plan says, else as the instance says, else as LXD does."""
    if ctx.move.policy.grace is not None:
        return ctx.move.policy.grace
    own = instance.expanded_config.get("boot.host_shutdown_timeout", "")
    return timedelta(seconds=int(own)) if own.isdigit() else _DEFAULT_GRACE


def _force(ctx: Context) -> Outcome:
    ended = ctx.settle(
        "force",
        lambda: ctx.on_source(ctx.source.force_stop(ctx.move.instance, project=ctx.move.project)),
        blocked_on="the forced stop",
        lingers=False,
    )
    if isinstance(ended, Outcome):
        return ended
    if ctx.source_instance().is_stopped:
        return Outcome.again(evidence=ctx.job.evidence)
    ctx.forget("force")
    raise TransferFailed(f"forced stop: {ended.error if ended else 'forgotten by the server'}")


def hand_over(ctx: Context) -> Outcome:
    """The commit point: the source is stopped and guarded, the copy is complete; the target is the one now."""
    if not was_handed_over(ctx):
        _check_copy(ctx)
        # Looked at between the reading and the writing of the guard, so that a hand-over proves what was seen.
        seal_guard(ctx, lambda: check_untouched(ctx, ctx.source_instance()))
    with suppress(NotFound):
        check_untouched(ctx, ctx.source_instance())
    return Outcome.completed()


def _check_copy(ctx: Context) -> None:
    copy = ctx.own_copy()
    if copy is None or copy.marks.get("state") not in ("complete", "handed-over"):
        raise CutoverBroken(f"{ctx.move.target}:{ctx.move.name} is not a complete copy")
    if copy.is_running:
        raise IdentityMismatch(
            f"{ctx.move.target}:{copy.name} runs before it was handed over",
            hint="somebody removed the guard and started it; stop one of the two by hand",
        )
    check_volumes(ctx)


def check_untouched(ctx: Context, source: Instance) -> str:
    """The source has not run since it was stopped and cannot: what the final pass took from it is its last word.

    Returns when it was last started. Raises CutoverBroken.
    """
    if not source.is_guarded:
        raise CutoverBroken(f"{ctx.move.source}:{source.name} lost its guard")
    last_used = source.last_used_at.isoformat()
    expected = source.expanded_config.get(LAST_USED) if source.is_handed_over else ctx.job.facts.get("last_used")
    if not source.is_stopped or (last_used != expected and not source.is_retired):
        raise CutoverBroken(f"{ctx.move.source}:{source.name} was started again after it was stopped for the cutover")
    return last_used


def take_name(ctx: Context) -> Outcome:
    """Within a cluster a name exists once: the source gives it up, then the copy takes it.

    Both are stopped and guarded. Should a request come late, the name that it wants is taken, or the one that it means
    is gone: nothing changes.
    """
    copy = _committed_copy(ctx)
    if copy is None or copy.name == ctx.move.name:
        return Outcome.completed()
    for key, instance, name in (
        ("rename_source", _retired_side(ctx), ctx.job.retired_name),
        ("rename_copy", copy, ctx.move.name),
    ):
        renamed = rename(ctx, key, instance, name)
        if renamed is not None:
            return renamed
    return Outcome.again()


def rename(ctx: Context, key: str, instance: Instance, name: str) -> Outcome | None:
    """Within a cluster, give a stopped side this name; None when it has it. Raises TransferFailed."""
    if instance.name == name:
        return None
    ended = ctx.settle(
        key,
        lambda: ctx.on_target(ctx.target.rename(instance.name, name, project=instance.project)),
        blocked_on=f"{instance.name} to be renamed to {name} on {instance.location}",
    )
    if isinstance(ended, Outcome):
        return ended
    ctx.forget(key)
    if ended is None:
        return Outcome.again(evidence=ctx.job.evidence)  # its server has forgotten it: look what it is called now
    if not ended.succeeded:
        raise TransferFailed(f"{ctx.move.target}: {instance.name} was not renamed to {name}: {ended.error}")
    return None


def start_target(ctx: Context) -> Outcome:
    """Take the guard off the target, give it its own autostart back, and start it if the source ran."""
    copy = _committed_copy(ctx)
    if copy is None:
        return Outcome.completed()
    if copy.is_guarded or copy.marks.get("state") != "handed-over":
        released = _release_target(ctx, copy)
        if released is not None:
            return released
    if copy.is_running or not ctx.job.facts.get("was_running"):
        return Outcome.completed()
    ended = ctx.settle(
        "start",
        lambda: ctx.on_target(ctx.target.start(copy.name, stateful=copy.stateful, project=copy.project)),
        blocked_on=f"the start on {ctx.move.target}",
    )
    if isinstance(ended, Outcome):
        return ended
    now = _committed_copy(ctx)
    if now is None or now.is_running:
        return Outcome.completed()
    ctx.forget("start")
    raise TransferFailed(f"{ctx.move.target}: start of {copy.name}: {ended.error if ended else 'forgotten'}")


def was_finished(ctx: Context) -> bool:
    """Whether the whole move was finished before: a Redis that lost its last second does not know it any more.

    Then the target has lost its marks, is the machine that was planned and free; the source is retired or deleted.
    """
    there = ctx.target_instance()
    if there is None or there.marks or there.is_guarded or identity_of(there) != ctx.move.identity:
        return False
    try:
        source = ctx.source_instance()
    except NotFound:
        return True
    return source.is_retired and source.marks.get("job") == ctx.job.id


def _committed_copy(ctx: Context) -> Instance | None:
    """The copy that was handed over; None if the whole move was finished before. Raises PermanentError."""
    copy = ctx.own_copy()
    if copy is None and was_finished(ctx):
        return None
    if copy is None:
        raise PermanentError(
            f"{ctx.move.target}:{ctx.move.name} has vanished after it was handed over",
            hint=f"the source {ctx.move.source}:{ctx.move.instance} is whole, stopped and guarded",
        )
    return copy


def _release_target(ctx: Context, copy: Instance) -> Outcome | None:
    source = _retired_side(ctx)
    # Not the devices that it has: Incus gives every copy a root disk of its own, also where a profile has one.
    return free_target(ctx, copy, "handed-over", devices=ctx.wanted_devices(source))


def _retired_side(ctx: Context) -> Instance:
    """The source that was handed over. Raises IdentityMismatch if it could start."""
    source = ctx.source_instance()
    if not source.is_stopped or not source.is_guarded:
        raise IdentityMismatch(
            f"{ctx.move.source}:{source.name} is not stopped and guarded although it was handed over",
            hint="somebody changed it; decide which side shall run, and stop the other",
        )
    return source


def free_target(
    ctx: Context, copy: Instance, state: str, *, devices: Devices, told: Mapping[str, str] = MappingProxyType({})
) -> Outcome | None:
    """Leave the copy these devices, no guard among them, its own autostart, and this state; None when done.

    ``told`` is more config, which stays.
    """

    def put() -> str:
        return ctx.target.replace(copy, config={**restored(copy), mark("state"): state, **told}, devices=devices)

    try:
        ended = ctx.settle(
            "release", lambda: ctx.on_target(put()), blocked_on=f"the release of the copy on {ctx.move.target}"
        )
    except PreconditionFailed as error:
        # Somebody's failed attempt to start a guarded copy changes its ETag.
        raise TransferFailed(f"{ctx.move.target}:{copy.name} changed meanwhile: {error}") from error
    if isinstance(ended, Outcome):
        return ended
    ctx.forget("release")
    if ended is None or not ended.succeeded:
        reason = ended.error if ended else "forgotten by the server"
        raise TransferFailed(f"{ctx.move.target}: release of {copy.name}: {reason}")
    return None


def verify_target(ctx: Context) -> Outcome:
    """The target is what was promised: running, same config, devices, addresses, snapshots, and healthy."""
    copy = _committed_copy(ctx)
    if copy is None:
        return Outcome.completed()
    try:
        source = ctx.source_instance()
    except NotFound:
        return Outcome.completed()  # it was deleted after this step had succeeded, and Redis has lost that
    differences = compare(ctx, source, copy) + differing_volumes(ctx)
    if differences:
        raise VerificationFailed(
            f"{ctx.move.target}:{copy.name} runs but differs: " + "; ".join(differences),
            hint=f"the source is kept, stopped; look at both, then `herder retry {ctx.job.id}`",
        )
    sick = check_health(ctx)
    if sick is not None:
        return sick
    if "down_at" in ctx.job.facts:
        return Outcome.completed(up_at=ctx.now().isoformat())
    return Outcome.completed()


def compare(ctx: Context, source: Instance, copy: Instance) -> list[str]:
    """What differs between the retired source and the target beyond what was asked for."""
    wanted_config = ctx.move.overrides.over(_originally(source))
    has_config = _without_transient(copy.config)
    found = [
        f"config {key} is {has_config.get(key)!r}, not {wanted_config.get(key)!r}"
        for key in sorted(wanted_config.keys() | has_config.keys())
        if wanted_config.get(key) != has_config.get(key)
    ]
    if {n: dict(d) for n, d in copy.own_devices.items()} != ctx.wanted_devices(source):
        found.append("its devices are others")
    if copy.profiles != wanted_profiles(source, ctx.move):
        found.append(f"its profiles are {', '.join(copy.profiles)}")
    found += [
        f"the address of {nic} is {copy.addresses.get(nic)}, not {address}"
        for nic, address in _wanted_addresses(ctx, source).items()
        if nic in copy.expanded_devices and copy.addresses.get(nic) != address
    ]
    if ctx.job.facts.get("was_running") and not copy.is_running:
        found.append(f"its status is {copy.status}")
    return found + missing_snapshots(ctx, source, copy)


def _wanted_addresses(ctx: Context, source: Instance) -> dict[str, str]:
    """The source's MAC addresses, but for those that were asked to be others."""
    asked = {nic: device["hwaddr"] for nic, device in ctx.wanted_devices(source).items() if "hwaddr" in device}
    return {**source.addresses, **asked}


def missing_snapshots(ctx: Context, source: Instance, copy: Instance) -> list[str]:
    """A sentence for each snapshot that the source has and the target has not; herder's own do not count."""
    if ctx.move.overrides.instance_only:
        return []
    on_source = {s.name for s in ctx.source.snapshots(source.name, project=source.project)}
    on_target = {s.name for s in ctx.target.snapshots(copy.name, project=copy.project)}
    return [f"it lacks snapshot {name}" for name in sorted(on_source - on_target) if not is_own_snapshot(ctx.job, name)]


def _originally(source: Instance) -> dict[str, str]:
    return _without_transient(restored(source))


def _without_transient(config: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in config.items() if not k.startswith(_TRANSIENT_KEYS)}
