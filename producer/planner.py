"""Request + Fleet -> Plan. Pure: the clock and the plan's id come in as arguments."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from fnmatch import fnmatchcase

from common.domain.eligibility import backed_volumes
from common.domain.errors import InputError
from common.domain.fleet import Fleet, Server, place
from common.domain.instance import HOME, Instance
from common.domain.plan import (
    Method,
    Mode,
    Move,
    NameMap,
    Overrides,
    Own,
    Plan,
    Refusal,
    Request,
    Selection,
    fingerprint,
    identity_of,
)
from producer.placement import Placement, taking_members

#: How a warning ends of what is mapped and nobody has.
UNUSED_MAP = ": its map does nothing"


def make_plan(request: Request, fleet: Fleet, *, plan_id: str) -> Plan:
    """Decide for every selected instance. Raises InputError if the request cannot be meant as it is."""
    source = fleet.servers[request.select.source]
    names_project = not request.select.all_projects
    if source.info.trusted and names_project and request.select.project not in source.projects:
        raise InputError(f"{source.remote} has no project {request.select.project}")
    selected = select(source.instances, request.select, fleet.matching)
    _check(request, selected)
    placement = Placement(source, [fleet.servers[each] for each in _places(request, fleet)])
    wrecks = [i.name for i in selected if i.is_wreck and i.name not in request.select.instances]
    there = [i for i in selected if i.location in _fine_where_it_is(request, source)]
    bound = [i for i in selected if request.select.members and i.stays_with_member]
    selected = tuple(i for i in selected if i.name not in wrecks and i not in there and i not in bound)
    moves: list[Move] = []
    refusals: list[Refusal] = []
    warnings = [
        f"{name} stays: it is the wreck of a broken copy; `herder janitor` tells how to remove it" for name in wrecks
    ]
    warnings += _unused(request.overrides.map, selected)
    warnings += [f"{i.name} stays: it is on member {i.location} already" for i in there]
    warnings += [f"{i.name} stays: it is stopped with its member, as its cluster.evacuate says" for i in bound]
    for instance in selected:
        draft = _draft(request, instance, fleet)
        placed, warned = placement.place(instance, draft, _among(request, draft, fleet))
        if isinstance(placed, Refusal):
            refusals.append(placed)
        else:
            moves.append(placed)
            warnings += [f"{instance.name}: {finding.message}; {finding.hint}" for finding in warned]
    warnings += _kept_as_they_are(request, moves)
    warnings += _made(moves)
    return Plan(
        id=plan_id,
        name=request.name,
        created_at=fleet.seen_at,
        request=request,
        moves=tuple(moves),
        refusals=tuple(refusals),
        warnings=tuple(warnings),
        fingerprint=fingerprint({(i.project, i.name): i for i in selected}, tuple(moves)),
    )


def members_for(request: Request, server: Server) -> tuple[str, ...]:
    """Those members of a target, or of the source's own cluster, that may get anything; none if it stands alone.

    A copy that is there is refreshed on the member that has it, whichever that is. Raises InputError.
    """
    if request.policy.method is Method.REFRESH and not request.members:
        return tuple(name for name, member in server.members.items() if member.is_online)
    if not server.members and not request.members:
        return ()
    return taking_members(server.remote, server.members, request.members)


def _places(request: Request, fleet: Fleet) -> tuple[str, ...]:
    if not request.targets:
        source = fleet.servers[request.select.source]
        return tuple(place(source.remote, member) for member in members_for(request, source))
    targets = [fleet.servers[name] for name in request.targets]
    return tuple(place(t.remote, member) for t in targets for member in members_for(request, t) or ("",))


def _fine_where_it_is(request: Request, source: Server) -> tuple[str, ...]:
    """The members that keep what is on them already; whoever names a single one, and no group, means to move there."""
    is_anywhere_fine = len(request.members) > 1 or any(name.startswith("@") for name in request.members)
    if request.targets or not (is_anywhere_fine or request.select.home):
        return ()
    return members_for(request, source)


def _among(request: Request, draft: Move, fleet: Fleet) -> tuple[str, ...] | None:
    """The places that a copy may be refreshed or made at, if members of a cluster are to be told apart for that."""
    if request.policy.method is not Method.REFRESH or request.members:
        return None
    target = fleet.servers[request.targets[0]]
    if not target.members:
        return None
    there = target.instance(draft.target_project, draft.name)
    names = (there.location,) if there else taking_members(target.remote, target.members, ())
    return tuple(place(target.remote, name) for name in names)


def select(
    instances: Iterable[Instance], selection: Selection, matching: Collection[tuple[str, str]] | None = None
) -> tuple[Instance, ...]:
    """The instances meant, in the order in which they shall go: by priority, highest first, then by name.

    The priority is boot.stop.priority, and of those that come back to their member boot.autostart.priority.
    ``matching`` are those that the source's filter lets through, by project and name. Raises InputError if a named
    instance is not there.
    """
    here = [i for i in instances if selection.all_projects or i.project == selection.project]
    missing = sorted(set(selection.instances) - {i.name for i in here})
    if missing:
        where = f"{selection.source} (project {selection.project})"
        raise InputError(f"no instance {', '.join(missing)} on {where}", hint=f"`lxc list {selection.source}:`")
    chosen = [
        i
        for i in here
        if (not selection.instances or i.name in selection.instances)
        and (matching is None or (i.project, i.name) in matching)
        and (not selection.members or i.location in selection.members)
        and (not selection.home or i.home == selection.home)
        and all(fnmatchcase(i.expanded_config.get(key, ""), pattern) for key, pattern in selection.match.items())
        # A source that an earlier plan has retired is not there any more as far as an evacuation is concerned.
        and (i.name in selection.instances or not i.is_retired)
        # What is there as a backup is backed up, moved and evacuated only by its name.
        and (i.name in selection.instances or not i.is_backup)
    ]
    order = "boot.autostart.priority" if selection.home else "boot.stop.priority"
    return tuple(sorted(chosen, key=lambda i: (-_priority(i, order), i.name)))


def _priority(instance: Instance, key: str) -> int:
    value = instance.expanded_config.get(key, "0")
    return int(value) if value.lstrip("-").isdigit() else 0


def _check(request: Request, selected: tuple[Instance, ...]) -> None:
    if not request.targets and not request.members:
        raise InputError("no target given", hint="--to TARGET:")
    if len(request.targets) > 1 and request.members:
        raise InputError("members are those of one target", hint="one request for each target")
    if request.select.source in request.targets and not all(i.is_backup for i in selected):
        hint = (
            "`lxc copy` makes a copy on the same server"
            if request.policy.method in (Method.COPY, Method.REFRESH)
            else ""
        )
        raise InputError(f"{request.select.source} is the source and a target at once", hint=hint)
    if request.policy.method is Method.REFRESH and len(request.targets) > 1:
        raise InputError("a refresh needs exactly one target", hint="one request for each target")
    if request.policy.rate and request.policy.mode in (Mode.PULL, Mode.PUSH):
        raise InputError(
            f"mode {request.policy.mode} has no limit: LXD cannot cap what goes from server to server",
            hint="leave the mode out, and a worker relays the data at that rate; or leave the limit out",
        )
    if request.rename and len(selected) != 1:
        raise InputError(f"a new name needs exactly one instance; {len(selected)} are selected")
    strangers = sorted(set(request.each) - {instance.name for instance in selected})
    if strangers:
        raise InputError(f"each: {', '.join(strangers)}: no such instance is selected")
    if not request.targets and any(own.name for own in request.each.values()):
        raise InputError("each: within a cluster there is no new name", hint="move it first, then `lxc rename`")


def _draft(request: Request, instance: Instance, fleet: Fleet) -> Move:
    own = request.overrides_of(instance.name)
    draft = Move(
        instance=instance.name,
        source=request.select.source,
        source_member=instance.location,
        target="",
        name=request.rename or request.each.get(instance.name, Own()).name or instance.name,
        project=instance.project,
        target_project=request.project_on_target(instance.project),
        type=instance.type,
        identity=identity_of(instance),
        method=_method(request, instance),
        policy=request.policy,
        overrides=replace(own, config={**own.config, **_home(request, instance)}),
        backup=request.backup,
        goes_home=request.goes_home,
        volumes=request.each.get(instance.name, Own()).volumes,
    )
    if draft.backup:
        there = (fleet.servers[request.select.source], fleet.servers[request.targets[0]])
        volumes = backed_volumes(instance, draft, *there)
        return replace(draft, name=draft.backup.staging_of(draft.origin), volumes=volumes)
    return _refreshing(draft, fleet.servers[request.targets[0]]) if draft.is_refresh else draft


def _refreshing(draft: Move, target: Server) -> Move:
    """A copy that is there keeps what it is made of; one that is not is made."""
    there = target.instance(draft.target_project, draft.name)
    if there is None:
        return replace(draft, method=Method.COPY)
    return replace(draft, overrides=replace(draft.overrides, storage=there.root_pool, profiles=there.own_profiles))


def _home(request: Request, instance: Instance) -> dict[str, str]:
    """What is noted on an instance for its way back to its evacuated member; a guest keeps the home that it has.

    Outside of its cluster the note would mean another member.
    """
    if request.select.home or request.targets:
        return {HOME: ""} if HOME in instance.config else {}
    home = instance.home or (instance.location if request.select.members else "")
    return {HOME: home} if home else {}


def _method(request: Request, instance: Instance) -> Method:
    """What was asked for; a stopped instance that moves has nothing to keep running.

    Of a virtual machine it depends on the target too: ``placement`` finds something better than a cold move.
    """
    if request.policy.method is not None and request.policy.method.is_copy:
        return request.policy.method
    if not instance.is_running:
        return Method.COLD
    return request.policy.method or (Method.COLD if instance.is_virtual_machine else Method.WARM)


def _kept_as_they_are(request: Request, moves: Iterable[Move]) -> Iterator[str]:
    """Warnings: what is asked for and a copy that is there does not get."""
    asked = replace(request.overrides, instance_only=False, allow_inconsistent=False, map=NameMap(), create=())
    if asked == Overrides():
        return
    for move in moves:
        if move.is_refresh:
            yield f"{move.target}:{move.name} is there, and keeps its config, devices, profiles and pool as they are"


def _made(moves: Iterable[Move]) -> list[str]:
    """Warnings: what will be there that was not."""
    told = (f"{each.thing} {each.name} is made on {m.target} as on {m.source}" for m in moves for each in m.creations)
    return list(dict.fromkeys(told))


def _unused(names: NameMap, instances: Iterable[Instance]) -> Iterator[str]:
    """Warnings: what is mapped although no selected instance has it, which may be a slip of the pen."""
    instances = tuple(instances)
    devices = [device for instance in instances for device in instance.own_devices.values()]
    used = {
        "profiles": {name for instance in instances for name in instance.own_profiles},
        "networks": {device.get(key, "") for device in devices for key in ("network", "parent")},
        "pools": {i.root_pool for i in instances} | {device.get("pool", "") for device in devices},
        "projects": {instance.project for instance in instances},
    }
    for kind, found in used.items():
        for name in sorted(set(getattr(names, kind)) - found):
            where = " among its own devices, and the target decides on its profiles" if kind == "networks" else ""
            yield f"no selected instance has {kind[:-1]} {name}{where}{UNUSED_MAP}"


def drift(plan: Plan, fleet: Fleet) -> list[str]:
    """What has changed since the plan was made, as far as the plan relied on it; empty if nothing has."""
    source = fleet.servers[plan.request.select.source]
    here = {(i.project, i.name): i for i in source.instances}
    if fingerprint(here, plan.moves) == plan.fingerprint:
        changed = []
    else:
        changed = [f"the instances on {source.remote} are not as they were at {_minute(plan.created_at)}"]
    for move in plan.moves:
        instance = here.get((move.project, move.instance))
        if instance is None:
            changed.append(f"{move.source}:{move.instance} is gone")
        elif identity_of(instance) != move.identity:
            changed.append(f"{move.source}:{move.instance} was made anew")
    return changed


def _minute(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")
