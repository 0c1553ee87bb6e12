"""Request + Fleet -> Plan. Pure: the clock and the plan's id come in as arguments."""

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from fnmatch import fnmatchcase

from common.domain.errors import InputError
from common.domain.fleet import Fleet
from common.domain.instance import Instance
from common.domain.plan import Method, Move, NameMap, Plan, Refusal, Request, Selection, fingerprint, identity_of
from producer.placement import Placement


def make_plan(request: Request, fleet: Fleet, *, plan_id: str) -> Plan:
    """Decide for every selected instance. Raises InputError if the request cannot be meant as it is."""
    source = fleet.servers[request.select.source]
    names_project = not request.select.all_projects
    if source.info.trusted and names_project and request.select.project not in source.projects:
        raise InputError(f"{source.remote} has no project {request.select.project}")
    selected = select(source.instances, request.select, fleet.matching)
    _check(request, selected)
    placement = Placement(source, [fleet.servers[remote] for remote in request.targets])
    wrecks = [i.name for i in selected if i.is_wreck and i.name not in request.select.instances]
    selected = tuple(i for i in selected if i.name not in wrecks)
    moves: list[Move] = []
    refusals: list[Refusal] = []
    warnings = [
        f"{name} stays: it is the wreck of a broken copy; `herder janitor` tells how to remove it" for name in wrecks
    ]
    warnings += _unused(request.overrides.map, selected)
    for instance in selected:
        placed, warned = placement.place(instance, _draft(request, instance))
        if isinstance(placed, Refusal):
            refusals.append(placed)
        else:
            moves.append(placed)
            warnings += [f"{instance.name}: {finding.message}; {finding.hint}" for finding in warned]
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


def select(
    instances: Iterable[Instance], selection: Selection, matching: Collection[tuple[str, str]] | None = None
) -> tuple[Instance, ...]:
    """The instances meant, in the order in which they shall go: by boot.stop.priority, highest first, then by name.

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
        and all(fnmatchcase(i.expanded_config.get(key, ""), pattern) for key, pattern in selection.match.items())
        # A source that an earlier plan has retired is not there any more as far as an evacuation is concerned.
        and (i.name in selection.instances or not i.is_retired)
    ]
    return tuple(sorted(chosen, key=lambda i: (-_stop_priority(i), i.name)))


def _stop_priority(instance: Instance) -> int:
    value = instance.expanded_config.get("boot.stop.priority", "0")
    return int(value) if value.lstrip("-").isdigit() else 0


def _check(request: Request, selected: tuple[Instance, ...]) -> None:
    if not request.targets:
        raise InputError("no target given", hint="--to TARGET:")
    if request.select.source in request.targets:
        hint = "`lxc copy` makes a copy on the same server" if request.policy.method is Method.COPY else ""
        raise InputError(f"{request.select.source} is the source and a target at once", hint=hint)
    if request.rename and len(selected) != 1:
        raise InputError(f"a new name needs exactly one instance; {len(selected)} are selected")


def _draft(request: Request, instance: Instance) -> Move:
    return Move(
        instance=instance.name,
        source=request.select.source,
        target="",
        name=request.rename or instance.name,
        project=instance.project,
        target_project=request.project_on_target(instance.project),
        type=instance.type,
        identity=identity_of(instance),
        method=_method(request, instance),
        policy=request.policy,
        overrides=request.overrides,
    )


def _method(request: Request, instance: Instance) -> Method:
    """What was asked for; a stopped instance that moves has nothing to keep running."""
    if request.policy.method is Method.COPY:
        return Method.COPY
    if not instance.is_running:
        return Method.COLD
    return request.policy.method or Method.WARM


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
            yield f"no selected instance has {kind[:-1]} {name}{where}: its map does nothing"


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
