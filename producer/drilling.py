"""Generations -> the plans that drill them: the newest of each instance, on the server that has it.

Called by ``herder backup drill`` and the scheduler. What a drill does is in ``workers.steps.drilling``.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from common.config import Settings
from common.domain.backup import BackupPolicy
from common.domain.drill import TIMEOUT, DrillOrder, clone_name, clone_of_volume
from common.domain.errors import InputError
from common.domain.fleet import Fleet
from common.domain.generation import Generation
from common.domain.plan import Health, Limits, Method, Overrides, Own, Plan, Policy, Request, Selection
from common.domain.volume import AttachedVolume
from common.lxd.remotes import Remotes
from producer.backup import generations, plan_id
from producer.inventory import take_inventory
from producer.planner import make_plan


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a clone must do to prove its generation: end ``command`` with 0 within ``timeout``; ``()``: go on running.

    ``at`` is the moment of the run.
    """

    at: datetime
    command: tuple[str, ...] = ()
    timeout: timedelta = TIMEOUT
    limits: Limits = field(default_factory=Limits)


def plans_for(policy: BackupPolicy, at: datetime, remotes: Remotes, settings: Settings) -> tuple[Plan, ...]:
    """Those of the run of a policy's drill that is due at ``at``; the same ids whenever it is asked.

    Raises InputError if the policy has no drill, UnknownRemote and ServerUnreachable.
    """
    if policy.drill is None:
        raise InputError(f"policy {policy.name} has no drill", hint="see docs/reference/policy-file.md")
    found = of_policy(generations([policy.drill_target], remotes, settings), policy.base_name)
    terms = Terms(at=at, command=policy.drill.command, timeout=policy.drill.timeout, limits=policy.limits)
    name = policy.as_drill().name
    return plans(found, terms, lambda place: plan_id(name, at, place), remotes, settings)


def newest_drill(found: Sequence[Generation], policy: BackupPolicy) -> datetime | None:
    """The newest moment of which every instance that was drilled has an outcome; None if none was."""
    of_policy = [each for each in found if each.policy == policy.base_name and each.drill is not None]
    last: dict[str, datetime] = {}
    for each in of_policy:
        if each.drill is not None:
            last[each.source] = max(each.drill.at, last.get(each.source, each.drill.at))
    return min(last.values(), default=None)


def of_policy(found: Iterable[Generation], name: str) -> list[Generation]:
    """The newest generation of each instance that a policy of this name has made; none if nothing bears it."""
    return _newest(each for each in found if each.policy == name)


def _newest(found: Iterable[Generation]) -> list[Generation]:
    newest: dict[tuple[str, str], Generation] = {}
    for each in sorted(found, key=lambda each: each.at):
        newest[each.policy, each.source] = each
    return sorted(newest.values(), key=lambda each: each.source)


def plans(
    chosen: Iterable[Generation], terms: Terms, id_of: Callable[[str], str], remotes: Remotes, settings: Settings
) -> tuple[Plan, ...]:
    """One for each remote and project that has generations; ``id_of`` names it by those."""
    groups: dict[tuple[str, str], list[Generation]] = {}
    for each in chosen:
        groups.setdefault((each.remote, each.project), []).append(each)
    made = []
    for (remote, project), group in groups.items():
        name = id_of(f"{remote}:{project}")
        request = request_for(group, terms, name)
        made.append(plan_drills(request, take_inventory(request, remotes, settings), group, terms, plan_id=name))
    return tuple(made)


def plan_drills(request: Request, fleet: Fleet, group: Sequence[Generation], terms: Terms, *, plan_id: str) -> Plan:
    """The plan of one remote and project, whose moves know what they are about."""
    plan = make_plan(request, fleet, plan_id=plan_id)
    orders = {g.name: DrillOrder(at=terms.at, source=g.source, timeout=terms.timeout) for g in group}
    return replace(plan, moves=tuple(replace(move, drill=orders[move.instance]) for move in plan.moves))


def request_for(group: Sequence[Generation], terms: Terms, plan_id: str) -> Request:
    """What a run asks of one remote and project; the names of the clones are those of the plan."""
    remote, names = group[0].remote, [each.instance for each in group]
    return Request(
        name=f"drill {', '.join(names[:3])}{' and others' if names[3:] else ''} on {remote}",
        select=Selection(source=remote, project=group[0].project, instances=tuple(each.name for each in group)),
        targets=(remote,),
        target_project=group[0].project,
        policy=Policy(
            method=Method.DRILL,
            health=Health(command=terms.command, timeout=terms.timeout) if terms.command else None,
        ),
        limits=terms.limits,
        overrides=Overrides(profiles=()),
        each={each.name: Own(name=clone_name(each.name, plan_id), volumes=_volumes(each, plan_id)) for each in group},
    )


def _volumes(generation: Generation, plan_id: str) -> tuple[AttachedVolume, ...]:
    """What a clone attaches in place of what its source did."""
    kept = (place.split("/", 1) for place in generation.volumes.values())
    return tuple(
        AttachedVolume(pool=pool, name=name, target_pool=pool, new_name=clone_of_volume(name, plan_id))
        for pool, name in kept
    )
