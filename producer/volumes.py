"""Request + Fleet -> Plan for custom volumes that go by themselves. Pure, as ``planner`` is."""

from collections.abc import Iterable
from dataclasses import replace

from common.domain.eligibility import volume_findings
from common.domain.errors import InputError
from common.domain.fleet import Fleet, Server
from common.domain.plan import Method, Move, Plan, Request, Selection
from common.domain.volume import AttachedVolume, Volume
from producer.decided import Decided


def plan_volumes(request: Request, fleet: Fleet, *, plan_id: str) -> Plan:
    """Decide for every selected volume. Raises InputError."""
    (name,) = request.targets
    source, target = fleet.servers[request.select.source], fleet.servers[name]
    if request.select.source == name:
        raise InputError(f"{name} is the source and the target at once", hint="on one server there is `lxc`")
    if request.select.project not in source.projects:
        raise InputError(f"{source.remote} has no project {request.select.project}")
    volumes = _select(source.volumes.values(), request.select)
    if request.rename and len(volumes) != 1:
        raise InputError(f"a new name needs exactly one volume; {len(volumes)} are selected")
    decided = Decided(request)
    for volume in volumes:
        move = _move(request, volume, target)
        place = f"{move.target_project}:{move.name}"
        decided.take(move, volume_findings(move, source, target), name=place)
    return decided.plan(fleet, plan_id)


def _select(volumes: Iterable[Volume], selection: Selection) -> tuple[Volume, ...]:
    """The volumes meant, by name. Raises InputError if one or a pool is not there."""
    here = {each.place: each for each in volumes if each.project == selection.project}
    where = f"on {selection.source} (project {selection.project})"
    missing = sorted(set(selection.instances) - here.keys())
    if missing:
        hint = f"`lxc storage volume list {selection.source}:{missing[0].partition('/')[0]}`"
        raise InputError(f"no custom volume {', '.join(missing)} {where}", hint=hint)
    if selection.instances:
        return tuple(here[place] for place in sorted(selection.instances))
    chosen = [each for each in here.values() if not selection.pools or each.pool in selection.pools]
    empty = sorted(set(selection.pools) - {each.pool for each in here.values()})
    if empty:
        raise InputError(f"no custom volume in pool {', '.join(empty)} {where}")
    # What an earlier plan has retired is not there any more as far as a move of all is concerned.
    return tuple(sorted((v for v in chosen if v.marks.get("state") != "retired"), key=lambda each: each.place))


def _move(request: Request, volume: Volume, target: Server) -> Move:
    pool, project = request.overrides.storage or volume.pool, request.project_on_target(volume.project)
    going = AttachedVolume(pool=volume.pool, name=volume.name, target_pool=pool, new_name=request.rename)
    assert request.policy.method is not None  # noqa: S101 - the command decides it
    move = Move(
        instance=volume.place,
        source=request.select.source,
        target=target.remote,
        name=f"{pool}/{going.target_name}",
        project=volume.project,
        target_project=project,
        type="volume",
        method=request.policy.method,
        pool=pool,
        policy=request.policy,
        overrides=request.overrides,
        volumes=(going,),
    )
    if move.method is not Method.VOLUME_REFRESH:
        return move
    if (pool, project, going.target_name) in target.volumes:
        return replace(move, reason=f"replaces the {move.name} that is there")
    return replace(move, method=Method.VOLUME_COPY, reason="it is not there yet")
