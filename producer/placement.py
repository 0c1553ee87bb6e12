"""Who goes where, with the reason for every choice and every refusal. Pure."""

from collections.abc import Mapping, Sequence
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
from common.domain.fleet import Server
from common.domain.instance import Instance
from common.domain.machine import best_method
from common.domain.plan import Finding, Method, Move, Refusal
from common.domain.units import render_size


@dataclass
class Placement:
    """Places instance after instance; remembers what it has given to each target."""

    source: Server
    targets: Sequence[Server]
    _count: dict[str, int] = field(default_factory=dict)
    _names: dict[tuple[str, str, str], str] = field(default_factory=dict)

    def place(self, instance: Instance, draft: Move) -> tuple[Move | Refusal, tuple[Finding, ...]]:
        """The move onto the best target, or the refusal with what stands in the way on each; and the warnings.

        ``draft`` is the move without its target. The best target is the one that got the fewest instances so far,
        among equals the one with the most room in the pool.
        """
        by_target = {server.place: self._findings(instance, draft, server) for server in self.targets}
        open_to = [s for s in self.targets if not any(f.is_refusal for f in by_target[s.place])]
        if not open_to:
            all_findings = _merged(by_target)
            refusal = Refusal(
                instance=instance.name, source=draft.source, project=instance.project, findings=all_findings
            )
            return refusal, ()
        best = min(open_to, key=lambda s: (self._count.get(s.place, 0), -_free(instance, draft, s), s.place))
        self._count[best.place] = self._count.get(best.place, 0) + 1
        self._names[best.place, draft.target_project, draft.name] = instance.name
        volumes = () if best.member else attached_volumes(instance, draft)
        move = replace(self._bound_for(best, instance, draft), pool=wanted_pool(instance, draft), volumes=volumes)
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
        if len(self.targets) == 1:
            return "the only target"
        if len(open_to) == 1:
            refused = ", ".join(
                f"{place}: {next(f.message for f in found if f.is_refusal)}"
                for place, found in by_target.items()
                if place != best.place
            )
            return f"the only one that can take it ({refused})"
        room = render_size(_free(instance, draft, best))
        return f"fewest instances of this plan so far, {room} free in pool {wanted_pool(instance, draft)}"


def _free(instance: Instance, draft: Move, target: Server) -> int:
    pool = target.pools.get(wanted_pool(instance, draft))
    return pool.free if pool else 0


def _merged(by_target: Mapping[str, Sequence[Finding]]) -> tuple[Finding, ...]:
    """Every finding once, in the order found."""
    unique = {(f.code, f.message): f for found in by_target.values() for f in found if f.is_refusal}
    return tuple(unique.values())
