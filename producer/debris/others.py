"""What was left beside instances: profiles, operations, and the same machine on two servers."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import timedelta

from common.domain.fleet import Profile, Server
from common.domain.instance import (
    Instance,
)
from common.domain.operation import Operation
from common.domain.units import render_duration
from producer.debris.eye import Eye, uuid_of
from producer.debris.instances import piece_of
from producer.debris.scene import WRECK, Action, Call, Debris, Found, Kind, is_temporary, job_of_profile

_AUTOSTART = "boot.autostart"


_POWER = "volatile.last_state.power"


#: How LXD describes the operations of a transfer.
_TRANSFERS = frozenset(
    {
        "Migrating instance",
        "Live-migrating instance",
        "Creating instance",
        "Migrating storage volume",
        "Copying storage volume",
    }
)


def left_profiles(eye: Eye) -> Iterator[Debris]:
    """Guards of jobs that are not at work."""
    for remote, server in sorted(eye.scene.fleet.servers.items()):
        for project, profile in _own_profiles(server):
            job = job_of_profile(profile)
            if not job or eye.is_at_work(job):
                continue
            users = [each for each in eye.all if each.remote == remote and profile.name in each.instance.profiles]
            proof = f"its name and description say that it is of job {job}; {eye.how_it_stands(job)}; "
            proof += f"used by {', '.join(each.instance.name for each in users)}" if users else "used by no instance"
            yield Debris(
                kind=Kind.PROFILE,
                server=remote,
                project=project,
                subject=profile.name,
                job=job,
                proof=proof,
                calls=(*(_without(each, profile.name) for each in users), _delete_profile(profile, project)),
                risk="none: no instance is kept from starting by it",
                held=eye.hold(job) or next(filter(None, (_why_guarded(eye, each) for each in users)), ""),
            )


def _own_profiles(server: Server) -> Iterator[tuple[str, Profile]]:
    """Each once: a project without profiles of its own shows those of the default one."""
    default = server.profiles.get("default", {})
    for project, below in sorted(server.profiles.items()):
        for profile in below.values():
            if project == "default" or default.get(profile.name) != profile:
                yield project, profile


def _without(found: Found, profile: str) -> Call:
    instance = found.instance
    kept = tuple(name for name in instance.profiles if name != profile)
    return Call(action=Action.PATCH, name=instance.name, project=instance.project, profiles=kept)


def _delete_profile(profile: Profile, project: str) -> Call:
    return Call(action=Action.DELETE_PROFILE, name=profile.name, project=project)


def _why_guarded(eye: Eye, user: Found) -> str:
    holder = user.instance.marks.get("job", "")
    if holder and eye.is_at_work(holder):
        return f"job {holder} is at work on {user}"
    if user.instance.is_guarded:
        return f"it keeps {user} from starting"
    return eye.busy(user)


def doubles(eye: Eye) -> Iterator[Debris]:
    """The same machine on two servers, as far as nothing else explains it and no guard keeps one of them down."""
    seen: set[frozenset[tuple[str, str, str]]] = set()
    for key, group in _same_machines(eye):
        keys = frozenset(each.key for each in group)
        if len({each.remote for each in group}) > 1 and keys not in seen:
            seen.add(keys)
            yield from _double(eye, group, key)


def _same_machines(eye: Eye) -> Iterator[tuple[str, list[Found]]]:
    by_sign: dict[str, list[Found]] = defaultdict(list)
    for found in eye.all:
        instance = found.instance
        job = instance.marks.get("job", "")
        is_other = WRECK.fullmatch(instance.name) or is_temporary(instance)
        if instance.is_guarded or is_other or (job and eye.is_at_work(job)):
            continue
        if uuid_of(instance):
            by_sign[f"the same volatile.uuid {uuid_of(instance)}"].append(found)
        for address in sorted(set(instance.addresses.values())):
            by_sign[f"the same name and the same address {address}"].append(found)
    for sign, group in by_sign.items():
        if sign.startswith("the same volatile.uuid"):
            yield sign, group
            continue
        for name in sorted({each.instance.name for each in group}):
            yield sign, [each for each in group if each.instance.name == name]


def starts_at_boot(instance: Instance) -> bool:
    """Whether its server starts it when it starts itself."""
    wanted = instance.expanded_config.get(_AUTOSTART, "")
    if wanted:
        return wanted in ("true", "1", "yes", "on")
    return instance.config.get(_POWER) == "RUNNING"


def _double(eye: Eye, group: list[Found], sign: str) -> Iterator[Debris]:
    runners = [each for each in group if each.instance.is_running]
    others = [each for each in group if not each.instance.is_running]
    boots = [str(each) for each in group if starts_at_boot(each.instance)]
    told = ", ".join(f"{each} is {each.instance.status}" for each in group)
    proof = f"{sign}: {told}; at boot start: {', '.join(boots) or 'none'}"
    for each in others if runners else group[1:]:
        call = Call(
            action=Action.PATCH, name=each.instance.name, project=each.instance.project, config={_AUTOSTART: "false"}
        )
        would_start = bool(runners) and starts_at_boot(each.instance)
        yield piece_of(
            Kind.DOUBLE,
            each,
            proof,
            calls=(call,) if would_start else (),
            risk=f"{each} does not start with its server any more" if would_start else "",
            held=eye.busy(each) if would_start else "",
            hint="look at both, and delete or rename the one that is not needed",
        )
    for each in runners[1:]:
        yield piece_of(Kind.DOUBLE, each, proof, hint="both run: stop one of them now, then look at both")


def stuck_operations(eye: Eye, stuck_after: timedelta) -> Iterator[Debris]:
    """Transfers that are older than that, and that nobody waits for."""
    for (remote, project), running in sorted(eye.scene.operations.items()):
        for operation in running:
            age = eye.scene.fleet.seen_at - operation.created_at
            if operation.is_finished or operation.description not in _TRANSFERS or age < stuck_after:
                continue
            if operation.id in eye.scene.awaited or _is_of_a_job_at_work(eye, remote, project, operation):
                continue
            names = ", ".join(sorted(operation.instances)) or "no instance"
            sent = str(operation.metadata.get("fs_progress") or "no progress told")
            yield Debris(
                kind=Kind.OPERATION,
                server=remote,
                project=project,
                subject=operation.id,
                proof=f"'{operation.description}' of {names} for {render_duration(age)}; {sent}; no job waits for it",
                calls=(Call(action=Action.CANCEL, name=operation.id, project=project),) if operation.may_cancel else (),
                risk="if it is somebody's transfer after all, it fails" if operation.may_cancel else "",
                hint=""
                if operation.may_cancel
                else f"LXD cannot cancel it; a restart of the daemon of {remote} ends it",
            )


def _is_of_a_job_at_work(eye: Eye, remote: str, project: str, operation: Operation) -> bool:
    server = eye.scene.fleet.servers[remote]
    there: Iterable[Instance | None] = (server.instance(project, name) for name in operation.instances)
    return any(each is not None and eye.is_at_work(each.marks.get("job", "")) for each in there)
