"""Who goes where, with the reason for every choice and every refusal. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from common.domain.creation import creations, with_created
from common.domain.eligibility import (
    COLD_WITHIN_CLUSTER,
    attached_volumes,
    findings,
    machine_case,
    risk_of_warm,
    wanted_pool,
)
from common.domain.errors import InputError
from common.domain.fleet import Member, Server
from common.domain.instance import Instance
from common.domain.machine import best_method
from common.domain.plan import Finding, Method, Move, Refusal
from common.domain.units import render_size


def taking_members(cluster: str, members: Mapping[str, Member], asked: Sequence[str]) -> tuple[str, ...]:
    """The members that instances may go to: those named, and of each ``@GROUP`` those at work; without any all at work.

    Where LXD itself places nothing, because of ``scheduler.instance``, nothing goes without being named. Raises
    InputError for a group that there is not, and if nobody is left.
    """
    named = [name for name in asked if not name.startswith("@")]
    groups = {name.removeprefix("@") for name in asked if name.startswith("@")}
    known = {group for member in members.values() for group in member.groups}
    if groups - known:
        raise InputError(
            f"{cluster} has no group {', '.join(sorted(groups - known))}; it has {', '.join(sorted(known)) or 'none'}",
            hint="`lxc cluster group list`",
        )
    free = [name for name, member in members.items() if member.is_online and not member.is_manual]
    of_groups = [name for name in free if groups & set(members[name].groups)]
    by_itself = [name for name in free if not members[name].is_of_groups]
    chosen = tuple(dict.fromkeys((*named, *of_groups))) if asked else tuple(by_itself)
    if not chosen:
        raise InputError(
            f"no member of {cluster} is left that could take the instances",
            hint="one has to be online, not evacuated, and its scheduler.instance not manual; or name one",
        )
    return chosen


@dataclass
class Placement:
    """Places instance after instance; remembers what it has given to each target."""

    source: Server
    targets: Sequence[Server]
    _count: dict[str, int] = field(default_factory=dict)
    _names: dict[tuple[str, str, str], str] = field(default_factory=dict)

    def place(
        self, instance: Instance, draft: Move, among: Collection[str] | None = None
    ) -> tuple[Move | Refusal, tuple[Finding, ...]]:
        """The move onto the best target, or the refusal with what stands in the way on each; and the warnings.

        ``draft`` is the move without its target. The best target is the one that got the fewest instances so far,
        among equals the member of a cluster that has the fewest, then the one with the most room in the pool. ``among``
        are the only places that count.
        """
        targets = [server for server in self.targets if among is None or server.place in among]
        by_target = {server.place: self._findings(instance, draft, server) for server in targets}
        open_to = [s for s in targets if not any(f.is_refusal for f in by_target[s.place])]
        if not open_to:
            all_findings = _merged(by_target)
            refusal = Refusal(
                instance=instance.name, source=draft.source, project=instance.project, findings=all_findings
            )
            return refusal, ()
        best = min(open_to, key=lambda s: (self._count.get(s.place, 0), _has(s), -_free(instance, draft, s), s.place))
        self._count[best.place] = self._count.get(best.place, 0) + 1
        self._names[best.place, draft.target_project, draft.name] = instance.name
        move = self._bound_for(best, instance, draft)
        volumes = () if move.is_within_cluster else attached_volumes(instance, draft)
        move = replace(move, pool=wanted_pool(instance, draft), volumes=volumes)
        warnings = tuple(f for f in by_target[best.place] if not f.is_refusal)
        move = replace(move, reason=self._reason(instance, draft, best, open_to, by_target))
        return self._by_best_method(instance, move, best), warnings

    def _by_best_method(self, instance: Instance, move: Move, target: Server) -> Move:
        """What runs goes by the best method that its servers allow, unless one was asked for."""
        if not instance.is_running or move.is_copy or move.policy.method:
            return move
        if instance.is_virtual_machine and move.is_within_cluster:
            method, why = Method.COLD, f"not stateful: {COLD_WITHIN_CLUSTER}"
        elif instance.is_virtual_machine:
            method, why = best_method(machine_case(instance, move, self.source, target))
        else:
            method, why = self._way_of_container(instance, move, target)
        return replace(move, method=method, reason=f"{move.reason}; {why}" if why else move.reason)

    def _way_of_container(self, instance: Instance, move: Move, target: Server) -> tuple[Method, str]:
        known = with_created(target, move.creations, move.target_project)
        risk = risk_of_warm(instance, move, self.source, known)
        return (Method.COLD, f"not warm: {risk}") if risk else (Method.WARM, "")

    def _bound_for(self, target: Server, instance: Instance, draft: Move) -> Move:
        """The move onto this target, with what has to be made on it."""
        there = replace(draft, target=target.remote, target_member=target.member)
        return replace(there, creations=creations(instance, there, self.source, target))

    def _findings(self, instance: Instance, draft: Move, target: Server) -> list[Finding]:
        there = self._bound_for(target, instance, draft)
        target = with_created(target, there.creations, draft.target_project)
        found = list(findings(instance, there, self.source, target))
        other = self._names.get((target.place, draft.target_project, draft.name))
        if other is not None:
            message = f"{other} of this plan takes the name {draft.name} on {target.place}"
            found.append(Finding(code="name_taken", message=message, hint="move it under another name"))
        return found

    def _reason(
        self,
        instance: Instance,
        draft: Move,
        best: Server,
        open_to: Sequence[Server],
        by_target: Mapping[str, Sequence[Finding]],
    ) -> str:
        if len(by_target) == 1:
            return "the only target"
        if len(open_to) == 1:
            refused = ", ".join(
                f"{place}: {next(f.message for f in found if f.is_refusal)}"
                for place, found in by_target.items()
                if place != best.place
            )
            return f"the only one that can take it ({refused})"
        room = render_size(_free(instance, draft, best))
        here = f"{_has(best)} there already, " if best.member else ""
        return f"fewest instances of this plan so far, {here}{room} free in pool {wanted_pool(instance, draft)}"


def _has(target: Server) -> int:
    """How many instances a member of a cluster has, as far as it was looked for them: LXD itself counts them too."""
    return sum(instance.location == target.member for instance in target.instances) if target.member else 0


def _free(instance: Instance, draft: Move, target: Server) -> int:
    pool = target.pools.get(wanted_pool(instance, draft))
    return pool.free if pool else 0


def _merged(by_target: Mapping[str, Sequence[Finding]]) -> tuple[Finding, ...]:
    """Every finding once, in the order found."""
    unique = {(f.code, f.message): f for found in by_target.values() for f in found if f.is_refusal}
    return tuple(unique.values())
