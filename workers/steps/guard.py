"""The guard: what keeps one side of a move from starting, enforced by its server.

At any moment at most one of source and target can start. The guard is a device whose path on the host does not exist,
and LXD refuses to start a container that has one; for a virtual machine it is a USB device that is not plugged into the
host. So not even a worker that comes back from a long sleep and sends its
last request can start the wrong side.

The copy is created with the device. The source gets it while it still runs, through a profile of its job: LXD refuses
to plug such a device into a running container, but saves the profile. From then on nobody can start the source once it
has stopped, and nothing has to wait until LXD has cleaned up after the stop. The copy loses its guard only after the
source was seen stopped and guarded, and after the hand-over was written into the same profile, so that of a hand-over
and a way back at the same instant one is refused.
"""

from collections.abc import Callable, Mapping

from common.domain.errors import CutoverBroken, IdentityMismatch, NotFound, PreconditionFailed
from common.domain.fleet import Profile
from common.domain.generation import COMPLETE
from common.domain.instance import (
    BACKUP_STATE,
    FAILED_OVER_BY,
    GUARD_DEVICE,
    GUARD_TYPES,
    REFRESHED_BY,
    Instance,
    guard_profile,
)
from common.domain.plan import identity_of
from common.lxd.client import LxdClient
from workers.steps.context import Context, soon_again
from workers.steps.marks import mark, marked, uuid_of_copy

_GUARDS = {
    "container": {"source": "/dev/herder-guard", "path": "/dev/herder-guard"},
    "virtual-machine": {"vendorid": "ffff", "productid": "ffff"},  # numbers that nobody is given
}

#: In the guard of a source that was handed over: when it was last started, so that a later start could be told.
LAST_USED = mark("last-used")


def guard(instance_type: str) -> dict[str, dict[str, str]]:
    """The guard of an instance of this type, by the name of the device."""
    return {GUARD_DEVICE: {"type": GUARD_TYPES[instance_type], "required": "true", **_GUARDS[instance_type]}}


def unguarded(instance: Instance) -> dict[str, dict[str, str]]:
    """The instance's local devices without the guard."""
    return {name: dict(device) for name, device in instance.devices.items() if name != GUARD_DEVICE}


def guard_source(ctx: Context) -> None:
    """Keep the source from being started again, whether it runs or not. Raises CutoverBroken if that has no effect."""
    name = guard_profile(ctx.job.id)
    # LXD refreshes snapshots only onto a server that knows every profile of their instance.
    _ensure(ctx, ctx.target, ctx.move.target_project)
    _ensure(ctx, ctx.source, ctx.move.project)
    source = marked(ctx, ctx.source_instance())
    if name not in source.profiles:
        ctx.patch_source({}, profiles=(*source.profiles, name))
    _write(ctx, "guards", devices=guard(ctx.move.type))
    if not ctx.source_instance().is_guarded:
        raise CutoverBroken(f"{ctx.move.source}:{ctx.move.instance} was taken out of profile {name}")


def was_handed_over(ctx: Context) -> bool:
    """Whether the commit point lies behind us although the record is older: a Redis may have lost its last second."""
    if ctx.move.backup:
        return is_promoted(ctx)
    if ctx.move.is_copy:
        return is_released(ctx, ctx.target_instance())
    try:
        source = ctx.source_instance()
    except NotFound:
        there = ctx.target_instance()
        return there is not None and not there.is_guarded and identity_of(there) == ctx.move.identity
    return source.is_handed_over and source.marks.get("job") == ctx.job.id


def is_promoted(ctx: Context) -> bool:
    """Whether the generation of this backup is complete."""
    try:
        found = ctx.target.instance(ctx.move.generation, project=ctx.move.target_project)
    except NotFound:
        return False
    return found.config.get(BACKUP_STATE) == COMPLETE


def is_released(ctx: Context, copy: Instance | None) -> bool:
    """Whether this is the copy of this job as an instance of its own; its config tells when its marks are gone."""
    if copy is None or copy.is_guarded:
        return False
    if ctx.move.is_refresh:
        return copy.config.get(REFRESHED_BY) == ctx.job.id
    if ctx.move.failover:
        return copy.config.get(FAILED_OVER_BY) == ctx.job.id
    return copy.config.get("volatile.uuid") == uuid_of_copy(ctx.job)


def seal_guard(ctx: Context, check: Callable[[], str]) -> None:
    """Write the hand-over into the guard: whoever was about to take it off is refused.

    ``check`` is called after the guard was read and returns when the source was last started. Raises what it raises.
    """
    _write(ctx, "handed-over", devices=guard(ctx.move.type), more=lambda: {LAST_USED: check()})


def unguard_source(ctx: Context) -> None:
    """Take the guard off the source; its profile stays."""
    _write(ctx, "open", devices={})


def remove_guard_profiles(ctx: Context) -> None:
    """Delete the job's profile on both servers; the source does not use it any more."""
    for client, project in ((ctx.source, ctx.move.project), (ctx.target, ctx.move.target_project)):
        ctx.confirm_fence()
        try:
            client.delete_profile(guard_profile(ctx.job.id), project=project)
        except NotFound:
            continue


def _ensure(ctx: Context, client: LxdClient, project: str) -> None:
    name = guard_profile(ctx.job.id)
    try:
        client.profile(name, project=project)
    except NotFound:
        # LXD keeps the profile if the job's new owner uses it.
        with ctx.taken_back_if_late(lambda: client.delete_profile(name, project=project)):
            client.create_profile(name, description=f"herder: guard of job {ctx.job.id}", project=project)


def _seen(ctx: Context, name: str) -> Profile:
    """The source's guard profile. Raises CutoverBroken if a cancel has removed it, and Redis has lost that."""
    try:
        return ctx.source.profile(name, project=ctx.move.project)
    except NotFound as error:
        raise CutoverBroken(f"{ctx.move.source}:{ctx.move.instance} lost its guard: {error}") from error


def _write(
    ctx: Context,
    state: str,
    *,
    devices: Mapping[str, Mapping[str, str]],
    more: Callable[[], Mapping[str, str]] = dict,
) -> None:
    """Change the source's guard profile. The time makes its ETag one that never comes back."""
    name = guard_profile(ctx.job.id)
    for attempt in soon_again(PreconditionFailed):
        with attempt:
            seen = _seen(ctx, name)
            if state == "open" and seen.config.get(mark("state")) == "handed-over":
                raise IdentityMismatch(f"{ctx.move.source}:{ctx.move.instance} was handed over; it only goes forward")
            state_marks = {mark("job"): ctx.job.id, mark("state"): state, mark("since"): ctx.now().isoformat()}
            told = more()
            ctx.confirm_fence()
            ctx.source.replace_profile(
                seen,
                description=seen.description,
                config={**state_marks, **told},
                devices=devices,
                project=ctx.move.project,
            )
